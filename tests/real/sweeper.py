"""What sees to it that a test leaves nothing behind, also when its process is killed: a shell that waits for the test's end and then does what it was told.

with Sweeper() as sweeper:
    sweeper.remember("ip link del cb1f")     # done when the test has ended, however it has ended, the last one first
"""

import contextlib
import subprocess

SWEEPS_S = 120.0
_SHELL = 'trap \'\' INT TERM HUP; all=; while read -r line; do all="$line; $all"; done; eval "$all"'


class Sweeper:
    """One shell. It reads what the test writes, and the end of what it reads is the end of the test."""

    def __init__(self):
        self._shell = subprocess.Popen(
            ["sh", "-c", _SHELL],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, bufsize=1, start_new_session=True,
        )  # fmt: skip

    def remember(self, command):
        """Do this at the end. It must do no harm where it was done already."""
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write(f"{command}\n")

    def close(self):
        """Do it now."""
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.close()
        try:
            self._shell.wait(SWEEPS_S)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
