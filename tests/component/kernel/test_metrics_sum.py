"""The page is the one that prometheus_client would make of the same files."""

import os
import struct
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from consilium.kernel import metrics_sum

MODES = ("all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent")
WRITER = """
import sys
from prometheus_client import Counter, Gauge, Histogram, Summary
number = float(sys.argv[1])
counter = Counter("turns", "A line\\nand a back\\\\slash.", ["b", "a"])
counter.labels('quo"te', "line\\nslash\\\\").inc(number)
counter.labels("ä", "x y").inc(12345678 * number)
Counter("bare", f"Told differently by {number}.").inc(number)
histogram = Histogram("seconds", "Times.", ["route"], buckets=(0.001, 0.25, 10, 2000000))
for at in range(int(number) + 2):
    histogram.labels("chat").observe(at / 3)
    histogram.labels("other").observe(at * 1e6)
Histogram("alone", "Without labels.", buckets=(1,)).observe(number)
Summary("size", "Sizes.", ["kind"]).labels("x").observe(number)
for mode in sys.argv[2:]:
    gauge = Gauge(f"at_{mode}", "A gauge.", ["x"], multiprocess_mode=mode)
    gauge.labels("1").set(number)
    gauge.labels("nan").set(float("nan") if mode == "sum" else -number)
    Gauge(f"no_label_{mode}", "A gauge.", multiprocess_mode=mode).set(number * 0.1)
"""


@pytest.fixture
def folder(tmp_path):
    """Files of three processes."""
    for number in (1, 2.5, 7):
        subprocess.run(
            [sys.executable, "-c", WRITER, str(number), *MODES],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            check=True,
            timeout=60,
        )
    return tmp_path


def samples(page: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return series -> its value as written, and its kind."""
    return {
        (row.name, str(sorted(row.labels.items()))): (repr(row.value), family.type)
        for family in text_string_to_metric_families(page)
        for row in family.samples
    }


def lines(page: str) -> list[str]:
    """Return the lines but those that explain, whose words two processes tell differently here."""
    return sorted(line for line in page.splitlines() if "Told differently" not in line)


def test_it_is_the_page_of_prometheus_client(folder):
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    wanted = generate_latest(registry).decode()
    found = metrics_sum.page(sorted(folder.glob("*.db")))
    assert samples(found) == samples(wanted)
    assert lines(found) == lines(wanted)
    assert len(lines(found)) > 60
    assert metrics_sum.page(sorted(folder.glob("*.db"))) == found  # with keys that are known


def test_buckets_stand_in_their_order(folder):
    page = metrics_sum.page(sorted(folder.glob("*.db")))
    bounds = [line.split('le="')[1].split('"')[0] for line in page.splitlines() if line.startswith("seconds_bucket{le=") and 'route="chat"' in line]  # fmt: skip
    assert bounds == ["0.001", "0.25", "10.0", "2e+06", "+Inf"]


def test_a_new_set_of_keys_is_begun_when_there_are_too_many(folder, monkeypatch):
    before = metrics_sum.page(sorted(folder.glob("*.db")))
    monkeypatch.setattr(metrics_sum, "MOST_KEYS", 3)
    assert metrics_sum.page(sorted(folder.glob("*.db"))) == before


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff\x00\x00\x00" * 10, struct.pack("ii", 64, 0) + b"\xff" * 56])  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path, data):
    file = tmp_path / "counter_1.db"
    file.write_bytes(data)
    with pytest.raises((RuntimeError, ValueError, struct.error)):
        metrics_sum.page([file])


def test_a_gauge_that_went_meanwhile_costs_nothing_and_counters_are_asked_for(tmp_path):
    assert metrics_sum.page([tmp_path / "gauge_livesum_1.db"]) == ""
    with pytest.raises(FileNotFoundError):
        metrics_sum.page([tmp_path / "counter_1.db"])
