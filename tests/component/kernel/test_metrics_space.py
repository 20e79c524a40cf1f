"""A full disk costs figures, and no process."""

import os
import subprocess
import sys

import pytest

from consilium.kernel.metrics_files import ADDED_UP, page_of
from consilium.kernel.metrics_space import FIRST_BYTES, RoomyDict

COUNTS = """
import os, sys
from consilium.kernel import metrics_space
from consilium.kernel.metrics import Metrics

def full(*_):
    raise OSError(28, "No space left on device")

counts = Metrics()
if sys.argv[1] == "from the start":
    metrics_space.os.posix_fallocate = full
for number in range(1900):
    if number == 10:
        metrics_space.os.posix_fallocate = full
    counts.add("consilium_gateway_rejected_total", reason=f"reason-{number}-{'x' * 60}")
    counts.add("consilium_gateway_rejected_total", reason="one")
print(counts._child("consilium_gateway_rejected_total", {"reason": "one"})._value.get())
"""


def counted(folder, *words, code=COUNTS):
    done = subprocess.run([sys.executable, "-c", code, *words], env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_process_goes_on_counting_on_a_full_disk(tmp_path, when):
    assert counted(tmp_path, when) == "1900.0"
    assert [file for file in tmp_path.iterdir() if not file.stat().st_size] == []
    assert ('reason="one"' in page_of(tmp_path)) is (when == "later")


def test_a_file_has_all_its_blocks_and_grows(tmp_path):
    file = tmp_path / "counter_1.db"
    made = RoomyDict(str(file))
    assert file.stat().st_blocks * 512 >= file.stat().st_size == FIRST_BYTES
    for number in range(2000):
        made.write_value(f"name {number} of some length", float(number), 0.0)
    assert file.stat().st_blocks * 512 >= file.stat().st_size > FIRST_BYTES
    made.close()
    again = RoomyDict(str(file))
    assert again.read_value("name 1999 of some length") == (1999.0, 0.0)
    again.close()
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_the_sum_of_ended_processes_is_not_made_on_a_full_disk_and_nothing_is_lost(tmp_path, monkeypatch):  # fmt: skip
    counts = "from consilium.kernel.metrics import Metrics\nMetrics().add('consilium_gateway_rejected_total', 5, reason='a')"
    counted(tmp_path, code=counts)
    counted(tmp_path, code=counts)
    line = 'consilium_gateway_rejected_total{reason="a"} 10.0'

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        assert line in page_of(tmp_path)
        assert not any((tmp_path / f"{kind}_ended.db").exists() for kind in ADDED_UP)
    assert line in page_of(tmp_path)
    assert [one.name for one in tmp_path.glob("*.db")] == ["counter_ended.db"]
