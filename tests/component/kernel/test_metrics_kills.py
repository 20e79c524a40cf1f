"""kill -9 at every line of adding up what ended processes have counted: each of them counts once, before anybody mends it and after.

A child forks for each place. The fork adds up under a trace that kills it at the n-th line of metrics_files.py; what lies there then is read, by who may change
nothing and by who goes on. Where the file of a process had its new name already, a later process gets the number of the one that ended, and writes a file of the old name.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from consilium.kernel import metrics_files

NOBODY = 1 << 23
"""Above the largest number that Linux gives a process."""
PROCESSES = 3
WRITER = """
import sys
from consilium.kernel.metrics import Metrics
metrics = Metrics()
metrics.add("consilium_gateway_requests_total", route="chat", code="200", executor="core")
metrics.observe("consilium_gateway_first_token_seconds", 0.02, route="chat", executor="core")
"""
COUNTED = (
    'consilium_gateway_requests_total{code="200",executor="core",route="chat"} ',
    'consilium_gateway_first_token_seconds_count{executor="core",route="chat"} ',
)


def counted(page: str) -> list[float]:
    """Return the two figures that each process has one of."""
    return [
        float(line.removeprefix(head))
        for head in COUNTED
        for line in page.splitlines()
        if line.startswith(head)
    ]


def die_at(line: int) -> None:
    """Kill this process at the n-th line of metrics_files.py."""
    seen = 0

    def trace(frame, event, _arg):
        nonlocal seen
        if frame.f_code.co_filename != metrics_files.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def add_up_and_die(folder: Path, line: int) -> bool:
    """Add up in a fork, and return whether it was killed before it had done."""
    pid = os.fork()
    if pid == 0:
        die_at(line)
        metrics_files.forget_ended(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill_at_every_line(made: Path, work: Path) -> None:
    """Go through the places, and say how many there were."""
    files = sorted(file for file in made.glob("*.db"))
    line, was_killed = 0, True
    while was_killed:
        line += 1
        folder = work / str(line)
        folder.mkdir()
        for number in range(PROCESSES):
            for file in files:
                shutil.copy(file, folder / f"{file.name.rpartition('_')[0]}_{NOBODY + number}.db")
        wanted = {file.name.partition("_")[0]: PROCESSES for file in files}
        was_killed = add_up_and_die(folder, line)
        for number in range(PROCESSES):
            for file in files:
                kind = file.name.partition("_")[0]
                later = folder / f"{kind}_{NOBODY + number}.db"
                if not later.exists():
                    shutil.copy(file, later)
                    wanted[kind] += 1
        expected = [wanted["counter"], wanted["histogram"]]
        for sees in (False, True, True):
            found = counted(metrics_files.page_of(folder, sees_processes=sees))
            assert found == expected, (line, sees, found, expected)
        left = sorted(file.name for file in folder.iterdir())
        assert left == ["counter_ended.db", "histogram_ended.db", "lock"], (line, left)
        shutil.rmtree(folder)
    print(line - 1)


def test_each_process_counts_once_wherever_the_adding_up_was_killed(tmp_path):
    made, work = tmp_path / "made", tmp_path / "work"
    made.mkdir()
    work.mkdir()
    subprocess.run(
        [sys.executable, "-c", WRITER],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(made)},
        check=True,
        timeout=60,
    )
    words = "import sys; from pathlib import Path; from tests.component.kernel import test_metrics_kills as test; test.kill_at_every_line(Path(sys.argv[1]), Path(sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", words, str(made), str(work)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
