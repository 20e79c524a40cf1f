"""From the path of an adapter to where its files are."""

import shutil

import pytest
import structlog

from consilium.demo import voice_files
from consilium.demo.folder import Step
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, sources
from consilium.lora_router.sources import Logged, fetched, from_root, is_hub
from consilium.lora_router.store import look_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("org/name", True),
        ("org/name@abcdef1", True),
        ("./loras/sport", False),
        ("/loras/sport", False),
        ("~/loras", False),
        ("sport", False),
        ("a/b/c", False),
    ],
)
def test_what_is_of_the_hub(path, expected):
    assert is_hub(path) is expected


def test_relative_paths_lie_beside_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "conf" / "loras" / "core").mkdir(parents=True)
    (tmp_path / "work" / "loras" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    beside = tmp_path / "conf"
    assert from_root("loras/core", beside) == str(beside / "loras" / "core")
    assert from_root("./loras/here", beside) == str(tmp_path / "work" / "loras" / "here")
    assert from_root("org/name@v1", beside) == "org/name@v1"
    assert from_root("./gone", beside) == str(beside / "gone")
    assert from_root("/srv/loras", beside) == "/srv/loras"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        fetched(str(tmp_path / "gone"), tmp_path)
    assert caught.value.fields["check"] == "not_found"
    assert fetched(str(tmp_path), tmp_path) == tmp_path


def test_a_download_is_logged_every_few_seconds(monkeypatch):
    with structlog.testing.capture_logs() as lines:
        told = Logged("org/name")
        told(Step("downloading", 1, 10))
        monkeypatch.setattr(sources, "LOGGED_S", 0.0)
        told(Step("downloading", 5, 10))
    assert [(line["event"], line["bytes"], line["of"]) for line in lines] == [
        ("adapter_coming", 5, 10)
    ]


def test_voices_of_the_demo_model_come_with_the_package(tmp_path):
    for voice in voice_files.VOICES:
        named = from_root(f"demo:{voice}", tmp_path)
        assert named == f"demo:{voice}"
        folder = fetched(named, tmp_path)
        before = look_of(folder)
        assert adapter_files.read(folder).settings.base == voice_files.BASE
        assert look_of(fetched(named, tmp_path)) == before


def test_a_voice_that_the_installer_has_linked_is_taken_too(tmp_path):
    """As uv does: the package's file and that of uv's cache are one."""
    home = tmp_path / "site-packages"
    shutil.copytree(voice_files.HOME / "cook", home / "cook")
    (tmp_path / "cache").hardlink_to(home / "cook" / "adapter_model.safetensors")
    with pytest.raises(ConsiliumError, match="refused"):
        adapter_files.read(home / "cook")
    adapter_files.read(voice_files.make("cook", tmp_path / "copy", home))


def test_a_voice_that_is_not_there_is_told_with_those_that_are(tmp_path):
    for name in ("pirate", "", "texts", "../demo"):
        with pytest.raises(ConsiliumError) as caught:
            fetched(f"demo:{name}", tmp_path)
        assert "demo:captain, demo:cook, demo:lawyer" in caught.value.fields["reason"]
        assert caught.value.fields["check"] == "not_found"


def test_a_folder_may_be_called_like_a_voice(tmp_path):
    (tmp_path / "demo:captain").mkdir()
    assert from_root("./demo:captain", tmp_path) == str(tmp_path / "demo:captain")
