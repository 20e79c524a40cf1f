"""Secrets are drawn into one Secret or come from the owner's, and are written nowhere else."""

import base64
import re
import string
from collections.abc import Mapping

import pytest
from pydantic import SecretStr
from tests.unit.chart import rendered
from tests.unit.chart.rendered import of_kind, pods
from tests.unit.chart.test_graph import FULL

from consilium.cli.config_tree import ConsiliumConfig
from consilium.gateway import first_key

NAMED_SO = re.compile(
    r"(?i)(token|secret|password|passwd|api_?key|admin_?key|credential|redis__url)"
)
"""Names of variables that hold what nobody may read."""
NO_SECRETS = {"RAY_SERVE_HAPROXY_BINARY_PATH"}
LITERAL = re.compile(
    r"csl_[0-9a-f]{8,}|hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:@\"']*:[^/\s@\"']+@"
)
"""What credentials look like: keys of ours and of well-known services, private keys, passwords in URLs."""
THEIRS = {"secrets": {"existingSecret": "mine"}}


def drawn(render):
    (secret,) = of_kind(render, "Secret")
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def words(value):
    """Return the parts of a secret that are drawn: the password in a URL is one by itself."""
    return [part for part in re.split(r"[^A-Za-z0-9_]", value) if len(part) >= 16]


def every_text(render):
    """Return path -> text of all files but the Secret's."""
    return {path: text for path, text in render.files.items() if path != "secret.yaml"}


@pytest.mark.parametrize("values", [{}, FULL], ids=["default", "full"])
def test_what_is_drawn_stands_in_the_secret_only(values):
    render = rendered.render(values)
    for key, value in drawn(render).items():
        assert words(value), key
        for word in words(value):
            for path, text in every_text(render).items():
                assert word not in text, (key, path)
                assert base64.b64encode(value.encode()).decode() not in text


def test_nothing_looks_like_a_credential(every):
    for path, text in every_text(every).items():
        assert not LITERAL.search(text), path


@pytest.mark.parametrize(
    "text",
    ["csl_0123456789ab_0", "redis://:password@host", "https://user:word@host/v1", "hf_" + "x" * 30],
)
def test_a_credential_would_be_seen(text):
    assert LITERAL.search(text)


def test_variables_with_such_names_come_from_secrets(every):
    for pod in pods(every):
        for container in pod.containers:
            for row in container.get("env", ()):
                if NAMED_SO.search(row["name"]) and row["name"] not in NO_SECRETS:
                    assert "value" not in row, (pod.name, row["name"])


def test_no_secret_is_an_argument(every):
    for pod in pods(every):
        for container in pod.containers:
            said = " ".join([*container.get("command", ()), *container.get("args", ())])
            assert "$(" not in said, "a variable in a command line can be read in the list of processes"  # fmt: skip
            assert not re.search(r"--(key|token|password|secret)\b", said)


def test_a_secret_of_ones_own_leaves_none_to_draw():
    render = rendered.render(THEIRS)
    assert of_kind(render, "Secret") == []
    named = set(re.findall(r"secret(?:KeyRef|Name): ?\{?(?:name: )?([a-z-]+)", render.text))
    assert named == {"mine"}
    assert render.rayservice["rayClusterConfig"]["authOptions"]["secretName"] == "mine"


def test_where_nothing_can_be_looked_up_a_secret_is_asked_for_in_a_sentence():
    with pytest.raises(Exception, match=r"Name a Secret of yours in secrets\.existingSecret"):
        rendered.render({"skipChecks": True}, unseen=False)
    assert rendered.render({"skipChecks": True} | THEIRS, unseen=False)


def test_what_is_drawn_is_long_and_what_is_expected_of_it():
    one, two = (
        drawn(rendered.Render(rendered.drawn(rendered.UNSEEN, release="home", namespace="lab", upgrade=False), "home", "lab"))
        for _ in range(2)
    )  # fmt: skip
    assert one.keys() == two.keys() == {"auth_token", "token", "secret", "admin-key", "redis.acl", "redis-url"}  # fmt: skip
    for key in one:
        assert one[key] != two[key], key
    for key in ("auth_token", "token", "secret"):
        assert len(one[key]) >= 40
        assert set(one[key]) <= set(string.ascii_letters + string.digits)


def test_the_first_key_is_one_that_the_gateway_takes():
    record = first_key.record_of(drawn(rendered.render())["admin-key"], b"pepper", 0.0)
    assert record.scopes


def test_redis_and_its_callers_have_the_same_password():
    told = drawn(rendered.render())
    (password,) = re.findall(r"redis://:([^@]+)@home-consilium-redis:6379/0", told["redis-url"])
    assert told["redis.acl"] == f"user default on >{password} ~* &* +@all\n"


def test_config_takes_no_password():
    # consilium.yaml lies in a ConfigMap.
    assert secret_keys(ConsiliumConfig) == {"redis.url", "redis.password"}, "refuse the new one too (templates/checks.yaml)"  # fmt: skip
    outside = {"redis": {"builtin": False}}
    for redis in ({"url": "redis://:word@box:6379"}, {"url": "rediss://me:word@box"}, {"url": "redis://box", "password": "word"}):  # fmt: skip
        with pytest.raises(Exception, match=r"(?s)redis.*(Secret|existingSecret|password)"):
            rendered.render(outside | {"config": {"redis": redis}})
    assert rendered.render(outside | {"config": {"redis": {"url": "redis://box:6379/1"}}})


def secret_keys(model, above=""):
    """Return the dotted keys of a tree that are secrets."""
    found = set()
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        if SecretStr in kinds:
            found.add(f"{above}{name}")
        for kind in kinds:
            if isinstance(kind, type) and hasattr(kind, "model_fields"):
                found |= secret_keys(kind, f"{above}{name}.")
    return found


def test_no_account_and_no_rights_are_made(every):
    kinds = {one["kind"] for one in every.objects}
    assert not kinds & {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}  # fmt: skip


def test_values_hold_none():
    def leaves(tree, above=""):
        for key, value in tree.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    import yaml

    values = yaml.safe_load((rendered.CHART / "values.yaml").read_text(encoding="utf-8"))
    for key, value in leaves(values):
        if re.search(r"(?i)password|token$", key):
            assert not value, key
