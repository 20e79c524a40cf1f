"""How a Kubernetes cluster is reached: a kubeconfig (KUBECONFIG, else ~/.kube/config), or the account of the pod that this runs in.

Knows contexts, certificates, tokens and exec plugins. Does not know what is asked.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import child_environment

POD_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
K3S: Final = Path("/etc/rancher/k3s/k3s.yaml")
"""Belongs to root; k3s's own kubectl reads it when KUBECONFIG is unset."""
PLUGIN_S: Final = 60.0
"""A plugin may open a browser."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and who asks.

    name       of the context, for sentences
    namespace  the context's own
    authority  certificates (PEM) that the server's is held against; empty = those of the system
    key_pair   certificate and key (PEM) of the caller, or empty
    is_trusted the server's certificate is not looked at (insecure-skip-tls-verify)
    """

    name: str
    server: str
    namespace: str = "default"
    headers: tuple[tuple[str, str], ...] = ()
    authority: str = ""
    key_pair: tuple[str, str] = ("", "")
    is_trusted: bool = False
    server_name: str = ""
    proxy: str = ""

    def tls(self) -> ssl.SSLContext:
        """Return how connections are secured."""
        found = ssl.create_default_context(cadata=self.authority or None)
        if self.is_trusted:
            found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
        if all(self.key_pair):
            with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads them from files only
                pair = Path(folder) / "pair.pem"
                pair.touch(mode=0o600)
                pair.write_text("\n".join(self.key_pair), encoding="ascii")
                found.load_cert_chain(pair)
        return found


def access(context: str = "", account: Path = POD_ACCOUNT) -> Access:
    """Return how the cluster of a context is reached; without a kubeconfig, that of the pod.

    Raises ConsiliumError(kubernetes_unreached): there is no kubeconfig, no such context, or a plugin failed.
    """
    files = _files()
    if not files:
        host, port = environment_value("KUBERNETES_SERVICE_HOST"), "KUBERNETES_SERVICE_PORT"
        if host is not None and (account / "token").is_file():
            return of_pod(host, environment_value(port) or "443", account)
        named = environment_value("KUBECONFIG")
        where = (
            f"KUBECONFIG names {named}"
            if named
            else "KUBECONFIG is not set, so it would be ~/.kube/config"
        )
        raise _refused("kubeconfig", f"there is none: {where}, and there is no such file. On k3s: {_copied(K3S)}; microk8s config and talosctl kubeconfig write one")  # fmt: skip
    return of_context(merged(files), context)


def _copied(file: Path) -> str:
    """Return the commands that make a user's own copy of a kubeconfig and have every program read it."""
    return f"mkdir -p ~/.kube && sudo cat {file} > ~/.kube/config && chmod 600 ~/.kube/config && export KUBECONFIG=~/.kube/config"  # fmt: skip


def _files() -> list[Path]:
    named = environment_value("KUBECONFIG")
    paths = named.split(":") if named else [str(Path.home() / ".kube" / "config")]
    found = [Path(path).expanduser() for path in paths if path]
    return [path for path in found if path.is_file()]


def of_pod(host: str, port: str, account: Path) -> Access:
    """Return how the cluster of this pod is reached, with the pod's service account."""
    where = f"[{host}]" if ":" in host else host
    space = account / "namespace"
    return Access(
        name="this pod's account",
        server=f"https://{where}:{port}",
        namespace=space.read_text(encoding="utf-8").strip() if space.is_file() else "default",
        headers=(_bearer((account / "token").read_text(encoding="utf-8").strip()),),
        authority=(account / "ca.crt").read_text(encoding="ascii"),
    )


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """Return kubeconfigs as one: the first that names something wins, as with kubectl. Paths in them become absolute."""
    whole: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}}
    for file in files:
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except PermissionError as err:
            raise _refused(str(file), f"it may not be read by this user; copy it: {_copied(file)}") from err  # fmt: skip
        except (OSError, yaml.YAMLError) as err:
            raise _refused(str(file), f"it cannot be read ({err})") from err
        if not isinstance(read, dict):
            raise _refused(str(file), "it is no kubeconfig")
        whole.setdefault("current-context", read.get("current-context") or None)
        if whole["current-context"] is None:
            del whole["current-context"]
        for kind, one in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in read.get(kind) or ():
                whole[kind].setdefault(entry["name"], {**(entry.get(one) or {}), "_at": file})
    return whole


def of_context(config: Mapping[str, Any], context: str = "") -> Access:
    """Return how the cluster of a context is reached. Raises ConsiliumError(kubernetes_unreached)."""
    name = context or config.get("current-context") or ""
    known = ", ".join(sorted(config["contexts"])) or "none"
    if not name:
        raise _refused("kubeconfig", f"it has no current context; choose one with --context ({known})")  # fmt: skip
    if name not in config["contexts"]:
        raise _refused("kubeconfig", f"there is no context {name!r}; there are: {known}")
    chosen = config["contexts"][name]
    cluster = config["clusters"].get(chosen.get("cluster"))
    if cluster is None:
        raise _refused(f"context {name}", f"its cluster {chosen.get('cluster')!r} is not in the kubeconfig")  # fmt: skip
    user = config["users"].get(chosen.get("user"), {})
    headers, pair = _caller(user, cluster, chosen.get("user", ""))
    return Access(
        name=name,
        server=str(cluster.get("server", "")).rstrip("/"),
        namespace=chosen.get("namespace") or "default",
        headers=headers,
        authority=_text(cluster, "certificate-authority"),
        key_pair=pair,
        is_trusted=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name") or "",
        proxy=cluster.get("proxy-url") or "",
    )


def _caller(
    user: Mapping[str, Any], cluster: Mapping[str, Any], name: str
) -> tuple[tuple[tuple[str, str], ...], tuple[str, str]]:
    """Return the headers and the certificate that a user of the kubeconfig is known by."""
    pair = (_text(user, "client-certificate"), _text(user, "client-key"))
    if user.get("token"):
        return (_bearer(user["token"]),), pair
    if user.get("tokenFile"):
        return (_bearer(_beside(user, user["tokenFile"]).read_text(encoding="utf-8").strip()),), pair  # fmt: skip
    if user.get("username"):
        word = base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode())
        return (("authorization", f"Basic {word.decode()}"),), pair
    if user.get("exec"):
        return _from_plugin(user["exec"], cluster, name)
    if user.get("auth-provider"):
        raise _refused(f"user {name}", "it uses auth-provider, which Kubernetes took out in 1.26; write the kubeconfig anew with the provider's exec plugin")  # fmt: skip
    return (), pair


def _from_plugin(
    plugin: Mapping[str, Any], cluster: Mapping[str, Any], name: str
) -> tuple[tuple[tuple[str, str], ...], tuple[str, str]]:
    """Run a credential plugin (client.authentication.k8s.io) and return what it lends."""
    version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    asked: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        authority = base64.b64encode(_text(cluster, "certificate-authority").encode()).decode()
        asked["cluster"] = {"server": cluster.get("server"), "certificate-authority-data": authority}  # fmt: skip
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": asked}
    env = {row["name"]: row["value"] for row in plugin.get("env") or ()}
    words = [plugin["command"], *(plugin.get("args") or ())]
    try:
        done = subprocess.run(  # noqa: S603  the kubeconfig's owner wrote the command
            words,
            capture_output=True,
            text=True,
            timeout=PLUGIN_S,
            check=False,
            env=child_environment({**env, "KUBERNETES_EXEC_INFO": json.dumps(told)}),
        )
    except FileNotFoundError as err:
        hint = plugin.get("installHint") or "install it, or put it on the PATH"
        raise _refused(f"user {name}", f"its plugin {words[0]} is not there; {hint.strip()}") from err  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise _refused(f"user {name}", f"its plugin {words[0]} did not answer in {PLUGIN_S:.0f} s") from err  # fmt: skip
    try:
        lent = json.loads(done.stdout)["status"]
    except (ValueError, KeyError, TypeError) as err:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise _refused(f"user {name}", f"its plugin {' '.join(words[:2])} gave no credential: {said[0]}") from err  # fmt: skip
    headers = (_bearer(lent["token"]),) if lent.get("token") else ()
    return headers, (lent.get("clientCertificateData", ""), lent.get("clientKeyData", ""))


def _text(row: Mapping[str, Any], key: str) -> str:
    """Return what stands in `key-data` (base64) or in the file that `key` names; empty where neither is said."""
    if row.get(f"{key}-data"):
        return base64.b64decode(row[f"{key}-data"]).decode("ascii")
    if not row.get(key):
        return ""
    try:
        return _beside(row, row[key]).read_text(encoding="ascii")
    except OSError as err:
        raise _refused(f"{key} of the kubeconfig", str(err)) from err


def _beside(row: Mapping[str, Any], path: str) -> Path:
    """Return a path of a kubeconfig: a relative one is meant from the file's own folder."""
    return Path(row["_at"]).parent / path if "_at" in row else Path(path)


def _bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def _refused(name: str, reason: str) -> ConsiliumError:
    return ConsiliumError("kubernetes_unreached", name=name, reason=reason)
