"""`consilium metrics catalogue`."""

import json

from consilium.cli import metrics
from consilium.cli.app import EXIT_NOT_FOUND, main
from consilium.gpu_metrics import exposition
from consilium.gpu_metrics.samples import Card, Sample


def test_every_metric_is_there_once_with_its_meaning(capsys):
    assert main(["metrics", "catalogue", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert {
        "consilium_gateway_requests_total",
        "consilium_gpu_power_watts",
        "consilium_part_up",
    } <= set(names)
    assert all(row["help"].endswith(".") for row in rows)


def test_a_word_finds_what_it_means(capsys):
    assert main(["metrics", "catalogue", "xid"]) == 0
    out = capsys.readouterr().out
    assert "consilium_gpu_xid_errors_total" in out
    assert "consilium_gateway" not in out


def test_a_word_that_no_metric_has_is_told(capsys):
    assert main(["metrics", "catalogue", "gpuu"]) == EXIT_NOT_FOUND
    said = capsys.readouterr()
    assert said.out == ""
    assert "'gpuu'" in said.err


def test_no_label_is_cut_in_a_pipe_nor_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda found=terminal: found)
        assert main(["metrics", "catalogue", "consilium_engine_gpu_info"]) == 0
        out = capsys.readouterr().out
        assert "executor, replica, uuid" in out
        assert "…" not in out


def test_labels_are_those_of_the_page():
    page = exposition.page(
        Sample(0.0, "580", (Card(0, "GPU-0", power=1.0),)),
        exposition.Reading(up=True, age_s=0.1),
        lambda _pid: None,
    )
    told = {row["name"]: row["labels"] for row in metrics.catalogue()}
    for line in page.splitlines():
        if not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            assert ("uuid=" in line) == ("uuid" in told[name]), name
