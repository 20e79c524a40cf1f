"""`consilium up` when something is wrong: one sentence, the way out, a numbered exit code, and nothing started. No engine is needed for that."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from consilium.cli import app, cards_here, preflight
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import free_port
from consilium.supervisor.state_folder import StateFolder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def up(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    """Run `up` in this process. Return its exit code and what it said on stderr; nothing may have been started."""
    code = app.main(["up", "--state", str(folder / "state"), *words])
    state = StateFolder(folder / "state")
    assert not state.cluster.exists(), "a start that is refused writes no cluster.json"
    assert not state.log("supervisor").exists()
    return code, capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, said = up(capsys, tmp_path, "--model", "tiny", "--port", str(port))
    assert code == 67
    assert f"Port {port} (http) is taken by" in said
    assert "next:" in said


def test_one_port_named_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port = str(free_port())
    code, said = up(capsys, tmp_path, "--model", "tiny", "--port", port, "--grpc-port", port)
    assert code == 67
    assert port in said


def test_a_model_folder_that_is_not_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        json.dumps({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"})
    )
    code, said = up(capsys, tmp_path, "--model", str(model))
    assert code == 68
    assert "no .safetensors file" in said


def test_a_model_that_nobody_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = up(capsys, tmp_path, "--model", "tinny")
    assert code == 68
    assert "did you mean 'tiny'" in said


def test_a_key_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "consilium.yaml").write_text("model: tiny\ngateway:\n  prot: 8000\n")
    code, said = up(capsys, tmp_path)
    assert code == 64
    assert "'port'" in said
    assert "line 3" in said


def test_a_configuration_file_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = up(capsys, tmp_path, "-c", "nothing.yaml")
    assert code == 64
    assert "nothing.yaml" in said


def test_a_redis_that_does_not_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = up(
        capsys,
        tmp_path,
        "--model",
        "tiny",
        "--set",
        f"redis.url=redis://:hush@127.0.0.1:{free_port()}/0",
    )
    assert code == 69
    assert "does not answer" in said
    assert "hush" not in said


def test_a_redis_url_of_another_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert up(capsys, tmp_path, "--model", "tiny", "--set", "redis.url=http://127.0.0.1:1")[0] == 69


def test_a_state_folder_that_cannot_be_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert app.main(["up", "--model", "tiny", "--state", str(tmp_path / "file" / "state")]) == 64


def test_another_python() -> None:
    with pytest.raises(ConsiliumError) as caught:
        preflight.check_python((3, 12))
    assert (caught.value.code, app.exit_code(caught.value)) == ("wrong_python", 73)


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ConsiliumError) as caught:
        preflight.check_disk(tmp_path, free_bytes=1)
    assert app.exit_code(caught.value) == 74


def test_commands_without_a_cluster(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = str(tmp_path / "none")
    for words in (["status"], ["keys", "list"], ["chat", "hi"], ["models", "list"], ["why", "x"]):
        assert app.main([*words, "--state", state]) == 71, words
        assert "next: Start one with 'consilium up'" in capsys.readouterr().err
    assert app.main(["down", "--state", state]) == 0


@pytest.mark.skipif(bool(cards_here.read()[0]), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = up(capsys, tmp_path, "--model", "tiny", "--set", "topology.device=gpu")
    assert code == 66
    assert "topology.device asks for" in said


def test_a_context_that_the_demo_model_has_no_room_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = up(capsys, tmp_path, "--set", "engine.max_model_len=1000000")
    assert code == 65, said


def test_a_remote_key_that_is_not_in_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "consilium.yaml").write_text(
        "model: tiny\nexecutors:\n  far: {url: 'http://127.0.0.1:9/v1', model: m, key_env: NO_SUCH_KEY}\n"
    )
    code, said = up(capsys, tmp_path)
    assert code == 64
    assert "NO_SUCH_KEY" in said


def test_no_keys_on_an_open_address_is_warned_of(tmp_path: Path) -> None:
    from consilium.cli.config_tree import ConsiliumConfig

    said: list[str] = []
    preflight.check_keys(
        ConsiliumConfig.model_validate({"gateway": {"auth": False, "host": "0.0.0.0"}}), said.append
    )
    assert "without a key" in said[0]
    preflight.check_keys(ConsiliumConfig.model_validate({"gateway": {"auth": False}}), said.append)
    assert len(said) == 1
