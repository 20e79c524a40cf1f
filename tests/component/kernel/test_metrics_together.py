"""Several processes of one node add up on one page."""

import os
import subprocess
import sys

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
        children[0].communicate("\n", timeout=20)
        page = page_of(tmp_path)
        assert (
            'consilium_gateway_requests_total{code="200",executor="core",route="chat"} 7.0' in page
        )
        assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page
    finally:
        for process in children:
            if process.returncode is None:
                process.communicate("\n", timeout=20)


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
        process.communicate("\n", timeout=20)


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
            page = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
            assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page.stdout
    finally:
        process.communicate("\n", timeout=20)
    assert 'consilium_gateway_inflight_requests{executor="core"} 5.0' in page_of(
        tmp_path, sees_processes=False
    )
    forget_ended(tmp_path)  # as the next process does where this one ran
    assert "consilium_gateway_inflight_requests" not in page_of(tmp_path, sees_processes=False)
