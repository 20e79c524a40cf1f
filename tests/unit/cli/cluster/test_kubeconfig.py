"""How a cluster is reached: contexts, tokens, plugins, several files, a pod's account; and what is said where it is not."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
import yaml

from consilium.cli.cluster.kubeconfig import access
from consilium.kernel.errors import ConsiliumError

AUTHORITY = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def config(user=None, **cluster):
    return {
        "clusters": [{"name": "home", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}}],
        "users": [{"name": "me", "user": user or {"token": "t0"}}],
        "contexts": [
            {"name": "box", "context": {"cluster": "home", "user": "me", "namespace": "llm"}}
        ],
        "current-context": "box",
    }


@pytest.fixture
def given(tmp_path, monkeypatch):
    def write(*documents):
        files = []
        for n, document in enumerate(documents):
            files.append(tmp_path / f"config{n}")
            files[-1].write_text(yaml.safe_dump(document))
        monkeypatch.setenv("KUBECONFIG", ":".join(map(str, files)))
        return tmp_path

    return write


def refused(**words):
    with pytest.raises(ConsiliumError) as caught:
        access(**words)
    assert caught.value.code == "kubernetes_unreached"
    return caught.value.public()


def test_a_token_and_the_namespace_of_the_context(given):
    data = base64.b64encode(AUTHORITY.encode()).decode()
    given(config(**{"certificate-authority-data": data}))
    found = access()
    assert (found.server, found.namespace) == ("https://10.0.0.1:6443", "llm")
    assert found.headers == (("authorization", "Bearer t0"),)
    assert found.authority == AUTHORITY


def test_paths_are_meant_from_the_files_own_folder(given):
    folder = given(
        config(
            {"client-certificate": "me.crt", "client-key": "me.key"},
            **{"certificate-authority": "ca.crt"},
        )
    )
    for name in ("me.crt", "me.key", "ca.crt"):
        (folder / name).write_text(name)
    found = access()
    assert found.key_pair == ("me.crt", "me.key")
    assert found.authority == "ca.crt"


def test_the_first_file_that_names_something_wins(given):
    other = config({"token": "t1"})
    other["contexts"].append({"name": "far", "context": {"cluster": "home", "user": "me"}})
    other["current-context"] = "far"
    given(config(), other)
    assert access().name == "box"
    assert access("far").headers == (("authorization", "Bearer t0"),)
    assert access("far").namespace == "default"


def plugin(tmp_path, text):
    file = tmp_path / "plugin"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(file), "args": ["get-token"], "env": [{"name": "PROFILE", "value": "lab"}]}}  # fmt: skip


def test_a_plugin_lends_a_token(given, tmp_path):
    told = json.dumps({"kind": "ExecCredential", "status": {"token": "lent-$PROFILE"}})
    words = told.replace('"', '\\"')
    given(config(plugin(tmp_path, f'echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/asked; echo "{words}"')))  # fmt: skip
    assert access().headers == (("authorization", "Bearer lent-lab"),)
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["kind"] == "ExecCredential"


def test_a_plugin_that_fails_says_its_last_line(given, tmp_path):
    given(config(plugin(tmp_path, "echo 'please sign in' >&2; exit 1")))
    assert "gave no credential: please sign in" in refused()


def test_a_plugin_that_is_not_there(given):
    given(config({"exec": {"command": "no-such-plugin-here", "installHint": "brew install it"}}))
    assert "no-such-plugin-here is not there; brew install it" in refused()


def test_what_is_missing_is_named(given):
    given(config())
    assert "there is no context 'far'; there are: box" in refused(context="far")
    given({**config(), "current-context": ""})
    assert "choose one with --context (box)" in refused()
    given(config({"auth-provider": {"name": "gcp"}}))
    assert "auth-provider" in refused()


def test_no_kubeconfig_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    said = refused(account=Path(tmp_path))
    assert f"KUBECONFIG names {tmp_path / 'none'}" in said
    assert "sudo cat /etc/rancher/k3s/k3s.yaml > ~/.kube/config" in said
    assert "export KUBECONFIG=~/.kube/config" in said
    assert "KUBECONFIG=/etc" not in said
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "KUBECONFIG is not set" in refused(account=Path(tmp_path))


def test_one_that_belongs_to_root_is_copied(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError

    file = tmp_path / "k3s.yaml"
    file.touch()
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr(Path, "read_text", refuse)
    said = refused()
    assert f"sudo cat {file} > ~/.kube/config" in said
    assert "export KUBECONFIG=~/.kube/config" in said


def test_the_account_of_a_pod(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name, text in (("token", "of-pod\n"), ("ca.crt", AUTHORITY), ("namespace", "llm")):
        (tmp_path / name).write_text(text)
    found = access(account=tmp_path)
    assert (found.server, found.namespace) == ("https://[fd00::1]:443", "llm")
    assert found.headers == (("authorization", "Bearer of-pod"),)
