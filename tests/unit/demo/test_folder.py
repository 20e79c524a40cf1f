import multiprocessing
import shutil

import pytest

from consilium.demo import folder
from consilium.demo.folder import MARKER, human_bytes, is_whole, make_whole, require_room
from consilium.kernel.errors import ConsiliumError


def fill(aside):
    (aside / "a.bin").write_bytes(b"a" * 3000)
    (aside / "b.txt").write_text("b")


def test_made_once_and_then_left_alone(tmp_path):
    target = tmp_path / "models" / "m"
    assert make_whole(target, "r1", fill, needs_bytes=1) is True
    assert make_whole(target, "r1", lambda _: pytest.fail("made again"), needs_bytes=1) is False
    assert is_whole(target, "r1")


def test_another_recipe_makes_it_again(tmp_path):
    make_whole(tmp_path / "m", "r1", fill, needs_bytes=1)
    assert make_whole(
        tmp_path / "m", "r2", lambda aside: (aside / "c").write_text("c"), needs_bytes=1
    )
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["c", MARKER]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "a.bin").write_bytes(b"a" * 2999 + b"b"),
        lambda path: (path / "a.bin").write_bytes(b"a" * 2999),
        lambda path: (path / "b.txt").unlink(),
        lambda path: (path / MARKER).write_text("{"),
        lambda path: (path / MARKER).write_text("[]"),
        lambda path: (path / MARKER).unlink(),
    ],
)
def test_damage_makes_it_again(tmp_path, damage):
    make_whole(tmp_path / "m", "r1", fill, needs_bytes=1)
    damage(tmp_path / "m")
    assert not is_whole(tmp_path / "m", "r1")
    assert make_whole(tmp_path / "m", "r1", fill, needs_bytes=1)
    assert is_whole(tmp_path / "m", "r1")


def test_a_failure_leaves_nothing_behind_and_keeps_nothing_half(tmp_path):
    def half(aside):
        fill(aside)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_whole(tmp_path / "m", "r1", half, needs_bytes=1)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    aside = tmp_path / ".m.part"
    aside.mkdir()
    (aside / "old").write_text("half")
    make_whole(tmp_path / "m", "r1", fill, needs_bytes=1)
    assert not aside.exists()
    assert not (tmp_path / "m" / "old").exists()


def test_two_processes_make_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    makers = [
        context.Process(
            target=make_whole, args=(tmp_path / "m", "r1", fill), kwargs={"needs_bytes": 1}
        )
        for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert is_whole(tmp_path / "m", "r1")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        folder.shutil,
        "disk_usage",
        lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5_000_000, 5_000_000),
    )
    with pytest.raises(ConsiliumError) as caught:
        make_whole(tmp_path / "m", "r1", fill, needs_bytes=270_000_000)
    assert caught.value.code == "disk_full"
    assert "5.0 MB" in caught.value.public()
    assert "337 MB" in caught.value.public()
    with pytest.raises(ConsiliumError):
        require_room(tmp_path, 10)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (270_892_318, "271 MB"),
        (61e9, "61.0 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_for_people(count, text):
    assert human_bytes(count) == text
