"""Several processes of one node add up on one page."""

import itertools
import os
import subprocess
import sys
import threading

from consilium.kernel.metrics_files import forget_ended, page_of

CHILD = """
import sys
from consilium.kernel.metrics import Metrics
metrics = Metrics()
for _ in range(int(sys.argv[1])):
    metrics.add("consilium_gateway_requests_total", route="chat", code="200", executor="core")
    metrics.observe("consilium_gateway_first_token_seconds", 0.02, route="chat", executor="core")
metrics.set("consilium_gateway_inflight_requests", 5, executor="core")
metrics.set("consilium_gateway_redis_up", 1)
print("ready", flush=True)
sys.stdin.readline()
"""


def child(folder, count):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(count)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_counters_add_up_and_stay_and_gauges_go_with_their_process(tmp_path):
    assert page_of(tmp_path) == ""
    children = [child(tmp_path, count) for count in (3, 4)]
    try:
        for process in children:
            assert process.stdout.readline() == "ready\n"
        page = page_of(tmp_path)
        assert (
            'consilium_gateway_requests_total{code="200",executor="core",route="chat"} 7.0' in page
        )
        assert (
            'consilium_gateway_first_token_seconds_count{executor="core",route="chat"} 7.0' in page
        )
        assert 'consilium_gateway_inflight_requests{executor="core"} 10.0' in page
        assert "consilium_gateway_redis_up 1.0" in page
        children[0].communicate("\n", timeout=60)
        page = page_of(tmp_path)
        assert (
            'consilium_gateway_requests_total{code="200",executor="core",route="chat"} 7.0' in page
        )
        assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page
    finally:
        for process in children:
            if process.returncode is None:
                process.communicate("\n", timeout=60)


def test_a_number_that_another_process_got_meanwhile_counts_no_gauge(tmp_path):
    """The writer was killed, and its number given to a process that lives."""
    process = child(tmp_path, 1)
    try:
        assert process.stdout.readline() == "ready\n"
        for file in tmp_path.glob("gauge_live*.db"):
            file.with_name(file.name.replace(str(process.pid), str(os.getpid()))).write_bytes(
                file.read_bytes()
            )
        assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page_of(tmp_path)
        assert len(list(tmp_path.glob(f"gauge_live*_{os.getpid()}.db"))) == 0
    finally:
        process.communicate("\n", timeout=60)


def test_where_processes_have_other_numbers_nobody_is_taken_for_ended(tmp_path):
    """As in a pod, whose page is a container of its own. What one of them looked away would be gone for the writer's life."""
    process = child(tmp_path, 1)
    try:
        assert process.stdout.readline() == "ready\n"
        elsewhere = (
            "import sys, pathlib; from consilium.kernel.metrics_files import page_of;"
            "print(page_of(pathlib.Path(sys.argv[1]), sees_processes=False))"
        )
        words = [sys.executable, "-c", elsewhere, str(tmp_path)]
        if subprocess.run(["unshare", "-U", "-r", "-p", "-f", "true"], check=False).returncode == 0:
            words = ["unshare", "-U", "-r", "-p", "-f", "--mount-proc", *words]
        for _ in range(2):
            page = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
            assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page.stdout
    finally:
        process.communicate("\n", timeout=60)
    assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page_of(
        tmp_path, sees_processes=False
    )
    forget_ended(tmp_path)  # as the next process does where this one ran
    assert "consilium_gateway_inflight_requests" not in page_of(tmp_path, sees_processes=False)


NOBODY = 1 << 23
"""Above the largest number that Linux gives a process."""


def sums(page: str) -> dict[str, float]:
    """Return what only rises: counters, and counts and sums of histograms."""
    samples = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {
        series: float(value)
        for series, _, value in samples
        if not series.startswith(("consilium_gateway_inflight", "consilium_gateway_redis"))
    }


def test_fifty_restarts_leave_as_many_files_as_one_and_no_counter_ever_falls(tmp_path):
    """The files of a process that has ended are those of fifty: copies of them, with numbers that nobody has."""
    made, folder = tmp_path / "made", tmp_path / "figures"
    made.mkdir()
    folder.mkdir()
    with child(made, 3) as process:
        assert process.stdout.readline() == "ready\n"
        process.communicate("\n", timeout=60)
    files = list(made.glob("*.db"))
    assert len(files) == 4
    seen: list[dict[str, float]] = []
    sizes, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(sums(page_of(folder, sees_processes=False)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for restart in range(50):
            for file in files:
                name = file.name.replace(str(process.pid), str(NOBODY + restart))
                copy = folder / f"{name}.copy"
                copy.write_bytes(file.read_bytes())
                copy.rename(folder / name)
            page = page_of(folder)
            sizes.add(len(page.splitlines()))
            assert len(list(folder.glob("*.db"))) == 2
    finally:
        done.set()
        reader.join(20)
    assert len(sizes) == 1
    final = sums(page)
    assert final['consilium_gateway_requests_total{code="200",executor="core",route="chat"}'] == 150
    count = 'consilium_gateway_first_token_seconds_count{executor="core",route="chat"}'
    assert final[count] == 150
    assert len(seen) > 1
    for before, after in itertools.pairwise(seen):
        assert all(after[name] >= value for name, value in before.items())


def test_a_living_process_keeps_its_files_and_goes_on_counting_into_them(tmp_path):
    process = child(tmp_path, 2)
    try:
        assert process.stdout.readline() == "ready\n"
        for file in tmp_path.glob("*.db"):
            os.utime(file, (0, 0))
        files = {file.name for file in tmp_path.glob("*.db")}
        forget_ended(tmp_path)
        assert {file.name for file in tmp_path.glob("*.db")} == files
    finally:
        process.communicate("\n", timeout=60)
    forget_ended(tmp_path)
    assert {file.name for file in tmp_path.glob("*.db")} == {
        "counter_ended.db",
        "histogram_ended.db",
    }


def test_a_file_that_a_full_disk_has_damaged_costs_its_own_figures_only(tmp_path):
    process = child(tmp_path, 2)
    assert process.stdout.readline() == "ready\n"
    process.communicate("\n", timeout=60)
    (tmp_path / f"counter_{NOBODY}.db").write_bytes(b"")
    (tmp_path / f"counter_{NOBODY + 1}.db").write_bytes(b"\xff\x00\x00\x00" * 10)
    page = page_of(tmp_path)
    assert 'consilium_gateway_requests_total{code="200",executor="core",route="chat"} 2.0' in page
    assert len(list(tmp_path.glob("*.damaged"))) == 2
