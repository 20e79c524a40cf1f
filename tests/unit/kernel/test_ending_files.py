"""Who is being stopped: a file says it, and only to the life of a container in which it was written."""

import argparse

import pytest

from consilium.cli import drain
from consilium.kernel.ending_files import CLOSING, is_closing, life


def test_the_file_of_one_machine_is_empty_and_always_counts(tmp_path):
    file = tmp_path / CLOSING
    assert not is_closing(file)
    file.touch()
    assert is_closing(file)


def test_a_container_that_was_started_again_does_not_obey_its_former_life(tmp_path):
    """The kubelet ends a container that fails its probe: drain is called, and the folder stays."""
    file = tmp_path / CLOSING
    assert life().isdigit()
    file.write_text(life())
    assert is_closing(file)
    file.write_text(str(int(life()) - 1))
    assert not is_closing(file)


def test_a_life_is_told_by_its_first_process(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("1 (a) name) S " + " ".join(map(str, range(4, 30))))
    assert life(stat) == "22"
    assert life(tmp_path / "none") == ""


@pytest.mark.parametrize("has_face", [False, True])
def test_drain_writes_it_for_this_life(tmp_path, monkeypatch, capsys, has_face):
    monkeypatch.setenv("CONSILIUM_STATE", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "figures"))
    (tmp_path / "figures").mkdir()
    if has_face:
        monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "admin.sock"))

    assert drain.run(argparse.Namespace(limit=0.0, settle=0.0)) == 0
    assert (tmp_path / CLOSING).read_text() == life()
    assert "no answer" in capsys.readouterr().out
