import json
import os
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from consilium.kernel import config
from consilium.kernel.config import (
    Section,
    added_rooms,
    internal_token,
    load,
    load_json,
    load_view,
)
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.service_config import ServicesView


class Gateway(Section):
    port: int = Field(8000, ge=1, le=65535)
    host: str = "127.0.0.1"
    request_timeout_s: float = 600.0


class Role(Section):
    frame: str = ""
    profile: str = "auto"


class Redis(Section):
    url: SecretStr | None = None


class Tree(Section):
    model: str = "demo"
    gateway: Gateway = Field(default_factory=Gateway)
    roles: dict[str, Role] = Field(default_factory=dict)
    redis: Redis = Field(default_factory=Redis)


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "consilium.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(*, env=None, flags=None, path=None) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as told:
        load(Tree, path=path, env=env or {}, flags=flags)
    assert told.value.row.exit_code == 64
    return told.value


def test_flag_beats_environment_beats_file_beats_default(file):
    path = file("model: from-file\ngateway: {port: 1, host: from-file, request_timeout_s: 3}\n")
    env = {
        "CONSILIUM_GATEWAY__PORT": "2",
        "CONSILIUM_GATEWAY__HOST": "from-env",
        "PATH": "/bin",
        "CONSILIUM_STATE": "/x",
    }
    loaded = load(Tree, path=path, env=env, flags={"gateway.port": 4})
    assert loaded.value.gateway == Gateway(port=4, host="from-env", request_timeout_s=3)
    assert loaded.value.model == "from-file"
    origins = {
        key: loaded.origin(key)
        for key in ("gateway.port", "gateway.host", "gateway.request_timeout_s", "redis.url")
    }
    assert origins == {
        "gateway.port": "flag",
        "gateway.host": "environment",
        "gateway.request_timeout_s": "file",
        "redis.url": "default",
    }


def test_without_anything_everything_is_default():
    loaded = load(Tree, env={})
    assert loaded.value == Tree()
    assert loaded.origin("gateway.port") == "default"


def test_the_environment_takes_yaml_values():
    env = {"CONSILIUM_ROLES": "{philosopher: {frame: 'Ты философ'}}", "CONSILIUM_MODEL": "8"}
    with pytest.raises(ConsiliumError, match="CONSILIUM_MODEL"):
        load(Tree, env=env)
    env["CONSILIUM_MODEL"] = "'8'"
    loaded = load(Tree, env=env)
    assert loaded.value.roles["philosopher"].frame == "Ты философ"
    assert loaded.value.model == "8"


def test_the_tree_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load(Tree, env={}).value.gateway.port = 9


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("gatewai: {}\n", "gatewai", "The nearest known key is 'gateway' (consilium.yaml, line 1)"),
        (
            "model: x\ngateway:\n  host: a\n  prot: 80\n",
            "gateway.prot",
            "The nearest known key is 'port' (consilium.yaml, line 4)",
        ),
        (
            "roles:\n  poet:\n    farme: x\n",
            "roles.poet.farme",
            "The nearest known key is 'frame' (consilium.yaml, line 3)",
        ),
        ("zzzzzzzz: 1\n", "zzzzzzzz", "Known keys are gateway, model, redis, roles"),
        ("gateway:\n  port: eighty\n", "gateway.port", "(it is 'eighty') (consilium.yaml, line 2)"),
        ("gateway:\n  port: 70000\n", "gateway.port", "(it is 70000)"),
        ("gateway: 5\n", "gateway", "(it is 5)"),
    ],
)
def test_a_bad_key_or_value_is_named_with_its_line(file, text, key, said):
    err = refused(path=file(text))
    assert err.fields["key"] == key
    assert said in err.public()


def test_all_that_is_wrong_is_told_at_once(file):
    text = "gateway:\n  prot: 1\n  host: [a]\n  request_timeout_s: soon\nroles:\n  poet:\n    frame: 5\n"
    err = refused(path=file(text))
    assert err.fields["key"] == "gateway.prot"
    assert err.fields["nearest"] == "port"
    assert err.public().splitlines() == [
        "gateway.prot: there is no such key. The nearest known key is 'port' (consilium.yaml, line 2)",
        "gateway.host: a text is needed (it is a list) (consilium.yaml, line 3)",
        "gateway.request_timeout_s: a number is needed (it is 'soon') (consilium.yaml, line 4)",
        "roles.poet.frame: a text is needed; write it in quotes: '5' (it is 5) (consilium.yaml, line 7)",
    ]


def test_a_long_list_of_faults_is_cut(file):
    err = refused(path=file("\n".join(f"k{number}: 1" for number in range(25))))
    lines = err.public().splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 5 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2\nb: 3\n", "not YAML: line 2"),
        ("\tmodel: x\n", "not YAML: line 1"),
        ("- a\n- b\n", "the file must hold keys and values"),
        ("just words", "the file must hold keys and values"),
        ("1: 2\n", "the file must hold keys and values"),
    ],
)
def test_a_file_that_is_no_tree_is_told(file, text, said):
    assert said in refused(path=file(text)).public()


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    assert "cannot be read" in refused(path=tmp_path / "none.yaml").public()
    (tmp_path / "noise.yaml").write_bytes(bytes(range(128, 256)) * 10)
    assert "cannot be read" in refused(path=tmp_path / "noise.yaml").public()


def test_an_empty_file_is_an_empty_tree(file):
    assert load(Tree, path=file(""), env={}).value == Tree()


def test_a_bad_variable_is_named():
    err = refused(env={"CONSILIUM_GATEWAY__PROT": "1"})
    assert "from CONSILIUM_GATEWAY__PROT" in err.public()
    assert err.fields["nearest"] == "port"


def test_secrets_are_masked_and_never_stand_in_an_error():
    loaded = load(Tree, env={"CONSILIUM_REDIS__URL": "redis://:hunter2@h"})
    assert config.dump(loaded.value, masked=True)["redis"]["url"] == config.MASK
    assert config.dump(loaded.value, masked=False)["redis"]["url"] == "redis://:hunter2@h"
    assert "hunter2" not in repr(loaded)
    assert "7654321" not in str(refused(env={"CONSILIUM_REDIS__URL": "7654321"}))


def test_a_resolved_tree_comes_back_whole_from_json(tmp_path):
    class View(Tree):
        model_config = Section.model_config | {"extra": "ignore"}

    tree = load(Tree, env={}, flags={"redis.url": "redis://h", "roles.poet.frame": "f"}).value
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.dump(tree, masked=False), "later": {"x": 1}}))
    assert load_json(View, path).redis == tree.redis
    assert load_json(View, path).roles == tree.roles
    with pytest.raises(ConsiliumError, match="later"):
        load_json(Tree, path)
    path.write_text("{")
    with pytest.raises(ConsiliumError, match="not JSON"):
        load_json(View, path)


def test_the_state_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("CONSILIUM_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert config.default_state() == tmp_path / "consilium"
    monkeypatch.setenv("CONSILIUM_STATE", "~/here")
    assert config.default_state() == Path(os.path.expanduser("~/here"))
    monkeypatch.setenv("CONSILIUM_STATE", "")
    assert config.default_state() == tmp_path / "consilium"


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("model: a\ngateway: {}\nmodel: b\n", 1, 3),
        ("gateway:\n  port: 1\n  host: a\n  port: 2\n", 2, 4),
        ("roles:\n  a: {}\n  'a': {}\n", 2, 3),
    ],
)
def test_a_key_written_twice_is_refused_with_both_lines(file, text, first, second):
    err = refused(path=file(text))
    assert f"consilium.yaml, line {second}: " in err.public()
    assert f"is written twice, in line {first} and in line {second}" in err.public()


def test_equal_keys_in_different_sections_and_merged_defaults_are_no_repetition(file):
    path = file("roles:\n  a: &base {frame: x, profile: think}\n  b: {<<: *base, frame: y}\n")
    assert load(Tree, path=path, env={}).value.roles["b"] == Role(frame="y", profile="think")


def test_a_file_without_end_is_refused(file, tmp_path):
    assert "nested too deeply" in refused(path=file("a: " + "[" * 20_000)).public()
    (tmp_path / "big.yaml").write_bytes(b"#" * (5 << 20))
    assert "5 MiB" in refused(path=tmp_path / "big.yaml").public()


class Free(Section):
    env: dict[str, str] = Field(default_factory=dict)
    extra: dict[str, object] = Field(default_factory=dict)
    executors: dict[str, dict[str, str]] = Field(default_factory=dict)
    max_tokens: int = 3


def test_secrets_under_names_of_the_owners_choice_and_in_addresses_are_masked():
    env = {
        "HF_TOKEN": "hunter2",
        "aws_secret_access_key": "hunter2",
        "MY_PASSWORD": "hunter2",
        "NCCL_P2P_DISABLE": "1",
        "PROXY": "http://u:hunter2@h:1/x",
    }
    tree = Free(
        env=env,
        extra={
            "api_key": "hunter2",
            "keys": ["hunter2"],
            "served": ["https://me:hunter2@h/v1"],
            "tokenizer": "Qwen/Qwen3-8B",
        },
        executors={"rented": {"url": "https://me:hunter2@host/v1"}},
    )
    shown = config.dump(tree, masked=True)
    assert "hunter2" not in json.dumps(shown)
    assert shown["env"]["NCCL_P2P_DISABLE"] == "1"
    assert shown["executors"]["rented"]["url"] == f"https://{config.MASK}@host/v1"
    assert shown["max_tokens"] == 3
    assert shown["extra"]["tokenizer"] == "Qwen/Qwen3-8B"
    assert "hunter2" in json.dumps(config.dump(tree, masked=False)["env"])
    with pytest.raises(ConsiliumError) as told:
        load(Free, env={}, flags={"env": {"HF_TOKEN": 7654321}})
    assert "7654321" not in told.value.public()


def test_flatten_keeps_empty_sections():
    assert config.flatten({"a": {"b": 1, "c": {}}, "d": []}) == {"a.b": 1, "a.c": {}, "d": []}


@pytest.mark.parametrize("name", ["consilium.json", "consilium.yaml"])
def test_a_view_is_read_from_the_resolved_tree_or_from_yaml_under_the_environment(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("CONSILIUM_SERVICES__B__GRPC", "from-the-environment:1")
    path = tmp_path / name
    path.write_text('{"services": {"a": {"grpc": "h:1"}}, "unread": {"x": 1}}')
    found = load_view(ServicesView, path).services
    assert found["a"].grpc == "h:1"
    assert ("b" in found) == (name == "consilium.yaml"), "the resolved tree has it already"
    path.write_text('{"services": {"a": {"grcp": "h:1"}}}')
    with pytest.raises(ConsiliumError) as told:
        load_view(ServicesView, path)
    assert told.value.code == "config_invalid"
    assert "grpc" in told.value.public()


def test_the_internal_token_comes_from_the_environment_or_lies_beside_the_configuration(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("CONSILIUM_TOKEN", raising=False)
    for text in (None, "", " \n"):
        if text is not None:
            (tmp_path / "token").write_text(text)
        with pytest.raises(ConsiliumError) as told:
            internal_token(tmp_path)
        assert told.value.code == "config_invalid"
    (tmp_path / "token").write_text("of the file\n")
    assert internal_token(tmp_path) == "of the file"
    monkeypatch.setenv("CONSILIUM_TOKEN", "of the environment")
    assert internal_token(tmp_path) == "of the environment"


def test_rooms_that_are_not_ours_are_named_by_the_environment(monkeypatch):
    monkeypatch.delenv("CONSILIUM_ROOMS", raising=False)
    assert added_rooms() is None
    monkeypatch.setenv("CONSILIUM_ROOMS", "a.b:ROOM")
    assert added_rooms() == "a.b:ROOM"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, None),
        ({"password": "x"}, None),
        ({"url": "redis://:p@h:1/0#x"}, "redis://:p@h:1/0#x"),
        ({"url": "redis://h:1/0", "password": "p/w@"}, "redis://:p%2Fw%40@h:1/0"),
        ({"url": "redis://h", "username": "jobs", "password": "p"}, "redis://jobs:p@h"),
        ({"url": "redis://a:b@h", "username": "jobs", "password": "p"}, "redis://a:b@h"),
        ({"url": "rediss://h/0", "ca_file": "/a b"}, "rediss://h/0?ssl_ca_certs=%2Fa+b"),
        ({"url": "redis://h/0", "ca_file": "/ca"}, "redis://h/0"),
    ],
)
def test_the_address_of_redis_holds_what_else_was_said(given, address):
    assert RedisSettings.model_validate(given).address() == address
