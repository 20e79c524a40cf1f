"""The whole tree: typos, precedence, names that mean something in another section, the documented example."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from consilium.cli import config_tree
from consilium.cli.app import main
from consilium.cli.config_tree import (
    ConsiliumConfig,
    load_tree,
    parse_settings,
    self_contained,
)
from consilium.cli.example import example
from consilium.engine.config import EngineExecutor, Lora
from consilium.gateway.config import Role
from consilium.kernel.config import dump, flatten, load
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.config import Adapter


def args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    config_tree.add_config_flags(parser)
    parser.add_argument("--state")
    return parser.parse_args(words)


def file(folder: Path, text: str) -> Path:
    path = folder / "consilium.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as caught:
        load(ConsiliumConfig, path=file(folder, text), env={})
    assert caught.value.code == "config_invalid"
    return caught.value


def test_a_typo_names_the_nearest_key_and_the_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model: demo\nengine:\n  max_num_seq: 4\n").public()
    assert "engine.max_num_seq" in said
    assert "'max_num_seqs'" in said
    assert "line 3" in said


def test_a_typo_in_a_section_names_the_nearest_section(tmp_path: Path) -> None:
    assert "'gateway'" in refusal(tmp_path, "gatway:\n  port: 8000\n").public()


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = file(tmp_path, "engine: {max_num_seqs: 1, max_model_len: 100}\ngateway: {replicas: 2}\n")
    env = {"CONSILIUM_ENGINE__MAX_NUM_SEQS": "2", "CONSILIUM_ENGINE__MAX_MODEL_LEN": "200"}
    loaded = load(ConsiliumConfig, path=path, env=env, flags={"engine.max_num_seqs": 3})
    assert (loaded.value.engine.max_num_seqs, loaded.origin("engine.max_num_seqs")) == (3, "flag")
    assert (loaded.value.engine.max_model_len, loaded.origin("engine.max_model_len")) == (
        200,
        "environment",
    )
    assert (loaded.value.gateway.replicas, loaded.origin("gateway.replicas")) == (2, "file")
    assert (loaded.value.gateway.host, loaded.origin("gateway.host")) == ("127.0.0.1", "default")


def test_flags_of_up_become_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = load_tree(
        args(
            "--model",
            "tiny",
            "--port",
            "8123",
            "--grpc-port",
            "8124",
            "--set",
            "engine.max_num_seqs=7",
            "--set",
            "roles.a={frame: hi}",
        )
    ).value
    assert (
        value.model,
        value.gateway.port,
        value.gateway.grpc_port,
        value.engine.max_num_seqs,
    ) == ("tiny", 8123, 8124, 7)
    assert value.roles["a"].frame == "hi"


def test_the_file_of_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "model: tiny-moe\n")
    monkeypatch.chdir(tmp_path)
    assert load_tree(args()).value.model == "tiny-moe"


@pytest.mark.parametrize("pair", ["engine.max_num_seqs", "=3", "a={"])
def test_a_setting_that_cannot_be_read_is_told(pair: str) -> None:
    with pytest.raises(ConsiliumError):
        parse_settings([pair])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roles: {a: {frame: x, executor: nobody}}", "no executor"),
        ("roles: {a: {frame: x, profile: nothing}}", "no profile"),
        ("profiles: {p: {executor: nobody}}", "no executor"),
        (
            "executors: {core: {kind: remote, url: 'http://h/v1', model: m}}",
            "belongs to the model itself",
        ),
        ("executors: {x: {kind: engine, model: tiny}}", "hybrid"),
        ("roles: {a: {frame: x, frame_file: y}}", "not both"),
    ],
)
def test_names_in_one_section_must_mean_something_in_another(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in refusal(tmp_path, text).public()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "roles:\n  a:\n    frame: x\n    executor: nobody\n",
            "roles.a.executor: there is no executor 'nobody'; there is core (consilium.yaml, line 4)",
        ),
        (
            "roles:\n  a: {frame: x, profile: thinc}\n",
            "roles.a.profile: there is no profile 'thinc'; the nearest is 'think'; ",
        ),
        (
            "topology: {kind: hybrid}\nexecutors:\n  a: {model: x, fallback: bb}\n  bbb: {model: y}\n",
            "executors.a.fallback: there is no executor 'bb'; the nearest is 'bbb'",
        ),
        ("model: ''\n", "model: the name is empty"),
        (
            "executors:\n  a: {url: 'http://h', model: '  '}\n",
            "executors.a.model: the name is empty",
        ),
        (
            "executors:\n  a: {kind: renote, model: x}\n",
            "executors.a.kind: engine or remote is needed, the nearest is 'remote' (it is 'renote') (consilium.yaml, line 2)",
        ),
        (
            "executors:\n  a: {engine: {dtype: auto}}\n",
            "executors.a.model: a text is needed, and the key is not there (consilium.yaml, line 2)",
        ),
        (
            "topology:\n  kind: hybird\n",
            "topology.kind: replicas, sharded or hybrid is needed, the nearest is 'hybrid' (it is 'hybird') (consilium.yaml, line 2)",
        ),
        (
            "topology: {replicas: 0}\n",
            "topology.replicas: auto or a whole number of at least 1 is needed (it is 0)",
        ),
        (
            "engine:\nmodel: x\n",
            "engine: a section of keys such as max_model_len, max_num_seqs and max_num_batched_tokens is needed, and it is empty; leave the key out",
        ),
        ("state: /tmp/x\n", "state: the state folder is not named in a file"),
        ("engine: {env: {A: 1}}\n", "engine.env.A: a text is needed; write it in quotes: '1'"),
        ("roles: {No Good: {frame: x}}\n", "roles.No Good: this must be a name of small letters"),
    ],
)
def test_a_wrong_value_is_told_in_our_words(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text).public().startswith(said)


_FOREIGN = (
    "Input",
    "should be",
    "valid",
    "pydantic",
    "validation",
    "_kind_of",
    "NoneType",
    "literal",
    "union",
    "tag",
)


@pytest.mark.parametrize(
    "value",
    [
        "[]",
        "{}",
        "",
        "zz",
        "''",
        "-7",
        "1e30",
        "3.5",
        "true",
        "{zz: 1}",
        "[1, {a: b}]",
        "2026-11-12",
        ".nan",
    ],
)
def test_no_word_of_the_library_reaches_a_person(tmp_path: Path, value: str) -> None:
    keys = [*flatten(dump(ConsiliumConfig(), masked=False)), *ConsiliumConfig.model_fields]
    keys += [
        "executors.x",
        "executors.x.model",
        "executors.x.replicas",
        "executors.x.engine",
        "executors.x.engine.max_num_seqs",
        "executors.x.url",
    ]
    keys += [
        "roles.a",
        "roles.a.profile",
        "roles.a.executor",
        "profiles.p",
        "profiles.p.thinking",
        "profiles.p.top_k",
        "engine.env.A",
        "engine.extra_args.a",
    ]
    told = [said for key in keys if (said := sentence(key, value))]
    assert not [said for said in told if any(word in said for word in _FOREIGN)]


def sentence(key: str, value: str) -> str:
    """Return what is said about a value in the environment; nothing when it is taken."""
    try:
        load(ConsiliumConfig, env={"CONSILIUM_" + key.upper().replace(".", "__"): value})
    except ConsiliumError as err:
        return err.public()
    return ""


def test_the_files_of_roles_are_looked_for_before_config_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSILIUM_STATE", str(tmp_path / "state"))
    path = file(tmp_path, "roles: {a: {frame_file: frame.md}}")
    assert main(["config", "show", "-c", str(path)]) == 64
    assert "roles.a.frame_file: there is no file" in capsys.readouterr().err
    (tmp_path / "frame.md").write_text("You think.")
    assert main(["config", "show", "-c", str(path), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == {
        "value": str(tmp_path / "state"),
        "origin": "environment",
        "live": False,
    }


def test_adapters_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "loras" / "core").mkdir(parents=True)
    text = "adapters: {core: {path: loras/core}, sport: {path: org/name@v1}}"
    value = load(ConsiliumConfig, path=file(tmp_path, text), env={}).value
    found = self_contained(value, tmp_path).adapters
    assert found["core"].path == str(tmp_path / "loras" / "core")
    assert found["sport"].path == "org/name@v1"


def test_frame_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "frame.md").write_text("You think.")
    value = load(
        ConsiliumConfig, path=file(tmp_path, "roles: {a: {frame_file: frame.md}}"), env={}
    ).value
    role = self_contained(value, tmp_path).roles["a"]
    assert (role.frame, role.frame_file) == ("You think.", None)
    with pytest.raises(ConsiliumError, match=r"frame\.md"):
        self_contained(value, tmp_path / "elsewhere")


def test_models_and_templates_are_named_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "t.jinja").write_text("{}")
    text = "model: mine\ntopology: {kind: hybrid}\nengine: {chat_template: t.jinja}\nexecutors: {a: {model: Qwen/Qwen3-8B}, b: {model: ./mine, engine: {chat_template: t.jinja}}}\n"
    monkeypatch.chdir("/")
    found = self_contained(load(ConsiliumConfig, path=file(tmp_path, text), env={}).value, tmp_path)
    assert found.model == str(tmp_path / "mine")
    assert found.engine.chat_template == str(tmp_path / "t.jinja")
    assert found.executors["a"].model == "Qwen/Qwen3-8B"
    assert found.executors["b"].model == str(tmp_path / "mine")


def test_a_folder_called_demo_does_not_hide_the_demo_model(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert self_contained(ConsiliumConfig(), tmp_path).model == "demo"


def test_secrets_are_masked() -> None:
    value = load(ConsiliumConfig, env={}, flags={"redis.url": "redis://:hush@h:1/0"}).value
    assert "hush" not in str(flatten(dump(value, masked=True)))
    assert dump(value, masked=False)["redis"]["url"] == "redis://:hush@h:1/0"


def test_the_sections_that_owners_fill_are_masked_too(tmp_path: Path) -> None:
    text = (
        "engine: {env: {HF_TOKEN: hush, NCCL_P2P_DISABLE: '1'}, extra_args: {api_key: hush}}\n"
        "executors: {far: {url: 'https://me:hush@host/v1', model: m, key_env: FAR_KEY}}\n"
    )
    shown = flatten(
        dump(load(ConsiliumConfig, path=file(tmp_path, text), env={}).value, masked=True)
    )
    assert "hush" not in str(shown)
    assert (shown["engine.env.NCCL_P2P_DISABLE"], shown["executors.far.key_env"]) == (
        "1",
        "FAR_KEY",
    )
    assert shown["executors.far.url"].endswith("@host/v1")


def test_the_committed_example_is_the_generated_one() -> None:
    committed = Path(config_tree.__file__).with_name("config.example.yaml").read_text()
    assert committed == example(), (
        "run: consilium config example > services/consilium/cli/config.example.yaml"
    )


def test_the_example_is_the_defaults_and_names_every_key() -> None:
    found = load(
        ConsiliumConfig, path=Path(config_tree.__file__).with_name("config.example.yaml"), env={}
    ).value
    assert found == ConsiliumConfig()
    assert set(flatten(yaml.safe_load(example()))) == set(
        flatten(dump(ConsiliumConfig(), masked=False))
    )


@pytest.mark.parametrize("model", [Lora, Adapter, Role, EngineExecutor])
def test_the_example_has_every_key_of_what_is_left_out(model: type[BaseModel]) -> None:
    lines = [line for line in example().splitlines() if line.startswith("#  ")]
    for key, field in model.model_fields.items():
        told = [line for line in lines if line.lstrip("# ").startswith(f"{key}: ")]
        assert told, key
        assert key == "engine" or any((field.description or "") in line for line in told), key


def test_the_commented_rows_of_the_example_are_valid(tmp_path: Path) -> None:
    text = (
        example()
        .replace("  lora: null", "  lora:")
        .replace("executors: {}", "executors:")
        .replace("adapters: {}", "adapters:")
        .replace("roles: {}", "roles:")
        .replace("profiles: {}", "profiles:")
    )
    text = "\n".join(
        line.replace("#", " ", 1) if line.startswith("#  ") else line for line in text.splitlines()
    )
    value = load(
        ConsiliumConfig, path=file(tmp_path, text), env={}, flags={"topology.kind": "hybrid"}
    ).value
    assert value.engine.lora == Lora()
    assert set(value.executors) == {"coder", "rented"}
    assert value.adapters == {"sport": Adapter(path="adapters/sport")}
    assert set(value.roles) == {"philosopher"}
