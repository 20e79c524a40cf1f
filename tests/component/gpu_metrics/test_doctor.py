"""What doctor reads of cards, from a made driver and from the exporter itself: cards that are lost, XIDs, a driver that hangs, and where nothing is."""

import json

import pytest
from tests.component.gpu_metrics.test_exporter import (  # noqa: F401  fixtures
    exporter,
    library,
    up,
)

from consilium.gpu_metrics import doctor
from consilium.gpu_metrics.doctor import ExporterSeen, NvmlSeen
from consilium.kernel import gpus
from consilium.kernel.doctor import Level, Subject, gather, judge


def findings(state):
    rows = [row for row in doctor.ROWS if doctor.EXPORTER in row.needs]
    return {one.id: one for one in judge(rows, gather((doctor.EXPORTER,), Subject(None, state)))}


def test_the_exporter_of_a_running_cluster(exporter, tmp_path):  # noqa: F811
    fell = tmp_path / "fell"
    page = exporter("4090,count=2,xid", FAKE_NVML_FELL=str(fell)).until(up)  # fmt: skip
    page.until(lambda one: one.value("xid_errors_total", xid="79") == 1)
    found = findings(tmp_path)  # the exporter's config.json lies here, as in a state folder
    assert found["gpu_exporter"].level is Level.OK
    assert found["gpu_card_down"].level is Level.OK
    assert "GPU-0: 79" in found["gpu_xid"].sentence
    fell.touch()
    page.until(lambda one: 'consilium_gpu_up{uuid="GPU-1"} 0' in one.page())
    assert findings(tmp_path)["gpu_card_down"].sentence == "these answer no more: GPU-1"


@pytest.mark.parametrize(
    "tree", [None, {}, {"services": {"gpu_metrics": {"metrics": "http://127.0.0.1:1"}}}]
)
def test_without_an_exporter_nothing_is_said(tmp_path, tree):
    if tree is not None:
        (tmp_path / "config.json").write_text(json.dumps(tree))
    assert findings(tmp_path) == {}


def test_a_driver_that_hangs():
    page = "consilium_gpu_driver_up 0\nconsilium_gpu_sample_age_seconds 80\nconsilium_gpu_readers_stuck 2\n"
    assert doctor.read_page(page, 2000.0) == ExporterSeen(False, 80.0, 2, recent={})


def test_old_xids_are_no_news():
    page = 'consilium_gpu_driver_up 1\nconsilium_gpu_xid_errors_total{uuid="a",xid="79"} 1\nconsilium_gpu_xid_last_timestamp_seconds{uuid="a"} 1000\n'  # fmt: skip
    assert doctor.read_page(page, 2000.0) == ExporterSeen(True, recent={})
    assert doctor.read_page(page, 1100.0).recent == {"a": ["79"]}


def test_cards_that_the_kernel_knows_are_held_against_those_that_nvml_tells(
    library,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML", "4090,count=3,lost")
    monkeypatch.setattr(gpus, "has_driver", lambda: True)  # this process has loaded none
    for number in (1, 2, 3):
        (tmp_path / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    seen = doctor.look_at(tmp_path)
    assert seen.known == ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0")
    assert seen.told == ("0000:01:00.0", "0000:03:00.0")


def test_a_machine_without_a_driver_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "read", lambda **_: pytest.fail("asked"))
    assert doctor.look_at(tmp_path / "none") == NvmlSeen()
