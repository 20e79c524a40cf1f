"""The exporter as a process over a driver's library made for the test: every kind of card, and a driver that hangs, goes and comes back."""

import json
import os
import statistics
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.real import nvml
from tests.waiting import LIMIT_S, until

from consilium.gpu_metrics.ports import TABLE
from consilium.kernel.ports import free_port

GIB = 2**30


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return nvml.build(tmp_path_factory.mktemp("driver"))


class Exporter:
    """One process, and what its page says."""

    def __init__(self, folder, library, told, settings=None, **environment):
        self.grpc, self.port = free_port(), free_port()
        (folder / "token").write_text("of-this-test")
        services = {
            "gpu_metrics": {
                "grpc": f"127.0.0.1:{self.grpc}",
                "metrics": f"http://127.0.0.1:{self.port}",
            }
        }
        (folder / "config.json").write_text(
            json.dumps({"services": services, "gpu_metrics": {"period_s": 0.2, **(settings or {})}})
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "consilium.gpu_metrics.app", "--config", str(folder / "config.json")],
            env={**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": told, **environment},
        )  # fmt: skip

    def page(self):
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=LIMIT_S).text

    def figures(self):
        """Return (name, labels without uuid) -> value of the first card that has it."""
        found = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                key = sample.name.removeprefix("consilium_gpu_"), tuple(sorted((k, v) for k, v in sample.labels.items() if k != "uuid"))  # fmt: skip
                found.setdefault(key, sample.value)
        return found

    def value(self, name, **labels):
        return self.figures().get((name, tuple(sorted(labels.items()))))

    def until(self, what):
        def asked():
            try:
                return what(self)
            except httpx.HTTPError:
                return False

        until(asked, why="the page does not say it")
        return self


@pytest.fixture
def exporter(tmp_path, library):
    made = []

    def start(told, library=library, settings=None, **environment):
        made.append(Exporter(tmp_path, library, told, settings, **environment))
        return made[-1]

    yield start
    for one in made:
        one.process.terminate()
        one.process.wait(15)


def up(one):
    return one.value("driver_up") == 1


def test_a_card_at_home_says_what_it_has_and_leaves_out_what_it_has_not(exporter):
    page = exporter("3090").until(up)
    said = page.figures()
    assert said["memory_total_bytes", ()] == 24 * GIB
    assert said["memory_used_bytes", ()] == 19.5 * GIB, "what the driver keeps is not in it"
    assert said["memory_reserved_bytes", ()] == GIB / 2
    assert said["utilization_ratio", ()] == pytest.approx(0.87)
    assert said["power_watts", ()] == 305
    assert said["power_limit_watts", ()] == 350
    assert said["energy_joules_total", ()] == pytest.approx(987654.321)
    assert said["temperature_celsius", (("sensor", "gpu"),)] == 71
    assert said["clock_hertz", (("domain", "memory"),)] == 9501e6
    assert said["throttled_seconds_total", (("reason", "hardware_thermal"),)] == 2.5
    assert said["pcie_link_generation", (("state", "max"),)] == 4
    assert not [key for key in said if key[0].startswith(("ecc", "nvlinks", "xid", "remapped"))]
    assert not [key for key in said if key[0] in {"electricity_price", "kubelet_up", "pcie_sent_bytes_per_second"}]  # fmt: skip
    assert ("temperature_celsius", (("sensor", "memory"),)) not in said
    assert said["process_memory_bytes", (("executor", "other"), ("replica", ""))] == 10 * GIB


def test_other_cards(exporter, tmp_path):
    blackwell = exporter("pro6000,throttled,xid").until(up)
    blackwell.until(lambda one: one.value("xid_errors_total", xid="79") == 1)
    assert blackwell.value("temperature_celsius", sensor="memory") == 84
    assert blackwell.value("throttled", reason="software_thermal") == 1
    assert blackwell.value("throttled", reason="hardware_thermal") == 0
    assert blackwell.value("ecc_errors_total", type="corrected") == 3
    assert blackwell.value("remapped_rows", type="pending") == 1
    assert blackwell.value("remapped_rows", type="failed") == 0
    assert blackwell.value("xid_last_timestamp_seconds") == pytest.approx(time.time(), abs=30)


def test_slices_of_a_card_have_their_own_memory(exporter):
    said = exporter("a100mig").until(up).page()
    assert 'consilium_gpu_memory_total_bytes{uuid="MIG-0"} 42949672960' in said
    of_processes = [line for line in said.splitlines() if line.startswith("consilium_gpu_process_memory_bytes")]  # fmt: skip
    assert of_processes
    assert all('uuid="MIG-' in line for line in of_processes), "else their memory counts twice"
    assert 'consilium_gpu_memory_total_bytes{uuid="GPU-0"} 85899345920' in said
    assert 'consilium_gpu_nvlinks_up{uuid="GPU-0"} 12' in said
    assert "consilium_gpu_utilization_ratio{" not in said


def test_what_a_card_with_slices_draws_is_told_once_of_the_whole_card(exporter):
    said = exporter("a100mig").until(up).page()
    for figure in ("power_watts", "power_limit_watts", "energy_joules_total"):
        rows = [line for line in said.splitlines() if line.startswith(f"consilium_gpu_{figure}{{")]
        assert len(rows) == 1, rows
        assert 'uuid="GPU-0"' in rows[0]
    assert "NVML tells none of a MIG slice" in said


def test_an_old_driver_says_less_and_nothing_breaks(exporter, tmp_path):
    old = nvml.build(tmp_path / "old", old=True)
    page = exporter("4090", library=old).until(up)
    said = page.figures()
    assert said["memory_used_bytes", ()] == 20 * GIB
    assert said["power_watts", ()] == 312.5, "the mean of a second, where it has none of the moment"
    assert ("memory_reserved_bytes", ()) not in said
    assert not [key for key in said if key[0] == "process_memory_bytes"]


def test_values_that_are_none_and_counters_that_begin_anew(exporter):
    page = exporter("4090,nan,wrapped").until(up)
    assert page.value("power_watts") == 312.5, "the mean of a second in place of what is no number"
    page.until(lambda one: one.value("energy_joules_total") == pytest.approx(1.2))


def test_a_card_that_fell_off_the_bus_is_down_and_the_others_are_told(exporter):
    page = exporter("4090,count=3,lost").until(up).page()
    assert 'consilium_gpu_up{uuid="index-1"} 0' in page
    assert 'consilium_gpu_up{uuid="GPU-2"} 1' in page


def test_a_card_that_falls_while_it_is_in_use_keeps_its_name(exporter, tmp_path):
    fell = tmp_path / "fell"
    page = exporter("4090,count=2,xid", FAKE_NVML_FELL=str(fell)).until(up)
    assert 'consilium_gpu_up{uuid="GPU-1"} 1' in page.page()
    fell.touch()
    page.until(lambda one: 'consilium_gpu_up{uuid="GPU-1"} 0' in one.page())
    said = page.page()
    assert 'consilium_gpu_up{uuid="GPU-0"} 1' in said
    assert 'consilium_gpu_memory_used_bytes{uuid="GPU-1"}' not in said, "nothing is known of it"
    assert page.value("driver_up") == 1
    fell.unlink()
    page.until(lambda one: 'consilium_gpu_up{uuid="GPU-1"} 1' in one.page())


def test_a_lost_card_keeps_nobody_from_hearing_of_the_others(exporter):
    exporter("4090,count=3,lost,xid").until(lambda one: one.value("xid_errors_total", xid="79") == 1)  # fmt: skip


def test_what_goes_over_pcie_is_read_where_it_is_asked_for(exporter):
    page = exporter("4090", settings={"pcie_throughput": True}).until(up)
    assert page.value("pcie_sent_bytes_per_second") == 3e6
    assert page.value("pcie_received_bytes_per_second") == 7e6


def test_the_price_of_a_kilowatt_hour_is_told_where_it_is_set(exporter):
    page = exporter("4090", settings={"price_per_kwh": 0.31, "currency": "CHF"})
    page.until(lambda one: one.value("electricity_price", currency="CHF") == 0.31)


def test_a_driver_that_is_unloaded_and_comes_back(exporter, tmp_path):
    gone = tmp_path / "gone"
    page = exporter("4090", FAKE_NVML_GONE=str(gone)).until(up)
    gone.touch()
    page.until(lambda one: one.value("driver_up") == 0)
    assert page.value("memory_total_bytes") is None
    gone.unlink()
    page.until(up)


def test_memory_is_attributed_to_the_executor_whose_replica_has_it(exporter, tmp_path):
    title = "import setproctitle, subprocess, sys; setproctitle.setproctitle('ray::ServeReplica:executor-coder:Engine'); subprocess.run([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'])"  # fmt: skip
    replica = subprocess.Popen([sys.executable, "-c", title], stdout=subprocess.PIPE, text=True)
    try:
        worker = replica.stdout.readline().strip()
        page = exporter("4090", FAKE_NVML_PID=worker).until(up)
        assert page.value("process_memory_bytes", executor="coder", replica=str(replica.pid)) == 10 * GIB  # fmt: skip
    finally:
        for child in psutil.Process(replica.pid).children(recursive=True):
            child.kill()
        replica.kill()
        replica.wait(60)
        replica.stdout.close()


def test_a_hung_driver_holds_no_scrape(exporter, tmp_path, monkeypatch):
    hangs = tmp_path / "hangs"
    page = exporter("4090", FAKE_NVML_HANGS=str(hangs)).until(up)
    hangs.touch()
    page.until(lambda one: one.value("driver_up") == 0)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        assert page.value("memory_total_bytes") == 24 * GIB, "what is known stays, with its age"
        took.append(time.perf_counter() - began)
    assert page.value("sample_age_seconds") > 10
    print(f"scrapes while the driver hangs: p50 {statistics.median(took) * 1e3:.1f} ms, worst {max(took) * 1e3:.1f} ms")  # fmt: skip
    hangs.unlink()  # a scrape that waited for the driver would have hung until now
    page.until(up)


def test_the_table_is_the_page(exporter):
    page = exporter("a100mig,xid,throttled").until(up).page()
    known = {family.name for family in TABLE}
    said = {line.split("{")[0].split(" ")[0] for line in page.splitlines() if line.startswith("consilium_gpu_")}  # fmt: skip
    assert said <= known


def test_without_cards_it_says_so(exporter, tmp_path):
    page = exporter("4090,count=0").until(lambda one: one.value("sample_age_seconds") is not None)
    assert page.value("driver_up") == 0
