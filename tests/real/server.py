"""A server as a process of a test: started, waited for, killed, held, ended."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

STARTS_S = 180.0
ENDS_S = 60.0


class Server:
    """One process. A subclass says how it is started and when it answers.

    folder   its data and its log; they stay when it is started again
    """

    name = "server"

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen | None = None

    def words(self):
        """Return the command line."""
        raise NotImplementedError

    def answers(self):
        """Say whether it answers."""
        raise NotImplementedError

    @property
    def log(self):
        return self.folder / f"{self.name}.log"

    def start(self):
        """Start it, and return it when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        ends = time.monotonic() + STARTS_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > ends:
                code = self.process.poll()
                self.kill()
                raise AssertionError(f"{self.name} did not come up ({code}): {self.said()}")
            time.sleep(0.01)
        return self

    def said(self, most=2000):
        """Return the end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-most:]

    def kill(self):
        """End it as kill -9 does. It may be started again."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Ask it to end, and see to it that it does."""
        self._end(signal.SIGTERM)

    def hold(self):
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number):
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(timeout=ENDS_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=ENDS_S)
        self.process = None

    def __enter__(self):
        return self if self.process is not None else self.start()

    def __exit__(self, *_):
        self.stop()
