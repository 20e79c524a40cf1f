"""Programs that tests use and that are built from Go modules: one row each, with the version that is pinned.

    python -m tests.real.tools [NAME ...]     builds what is missing; `make tools` does so with all

They lie under .cache/tools/<name>-<version>/. A row stands here only when its build was seen to work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "tools"
BUILDS_S = 1800.0


@dataclass(frozen=True)
class Tool:
    """One program.

    package      what `go install` is told, without the version
    own_module   whether it must be built from a module of our own that requires it: where the module has `replace` lines, or packages are refused by name
    folder       folder beside this file with a whole module of our own, go.sum included, that is built in place of `package`
    program      which program of that module is built, where it is not the folder's own: a package that its tools.go names
    tags         what is left out or taken in when it is built
    linked       what the linker is told to write into it
    """

    name: str
    version: str
    package: str
    own_module: bool = False
    folder: str = ""
    program: str = "."
    tags: str = ""
    linked: str = ""

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}-{self.version}" / self.name


FEW_DISCOVERIES = "remove_all_sd"
"""Prometheus without the clients of twenty clouds, which find targets there: they would be half of its build. Files and fixed addresses are always known to it."""

TABLE = (
    Tool("grpcurl", "v1.9.4", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
    Tool("ghz", "v0.93.0", "github.com/bojand/ghz/cmd/ghz"),
    Tool("etcd", "v3.6.5", "go.etcd.io/etcd/server/v3", own_module=True),
    Tool(
        "kube",
        "v1.35.4",
        "k8s.io/kubernetes",
        folder="go/kube",
        linked="-X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35",
    ),
    Tool("ray-operator", "v1.6.2", "github.com/ray-project/kuberay/ray-operator", own_module=True),
    Tool(
        "prometheus",
        "v0.316.0",
        "github.com/prometheus/prometheus",
        folder="go/prometheus",
        program="github.com/prometheus/prometheus/cmd/prometheus",
        tags=FEW_DISCOVERIES,
    ),
    Tool(
        "promtool",
        "v0.316.0",
        "github.com/prometheus/prometheus",
        folder="go/prometheus",
        program="github.com/prometheus/prometheus/cmd/promtool",
        tags=FEW_DISCOVERIES,
    ),
    Tool("kwok", "v0.8.0", "sigs.k8s.io/kwok/cmd/kwok"),
    Tool("helm", "v4.2.4", "helm.sh/helm/v4/cmd/helm"),
    Tool("helm3", "v3.21.4", "helm.sh/helm/v3/cmd/helm"),
)
BY_NAME = {tool.name: tool for tool in TABLE}


def tool(name: str) -> str:
    """Return the path of a program; where it was not built the test is skipped, in CI it fails."""
    found = BY_NAME[name].path
    if found.exists():
        return str(found)
    sentence = f"{name} is not built here; 'make tools' builds it, where Go is installed"
    if is_ci():
        pytest.fail(sentence)
    pytest.skip(sentence)


def is_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def module_folder(module: str, version: str) -> Path:
    """Return the folder of a Go module's files, such as the stages and CRDs that lie in it. Where there is no Go the test is skipped, in CI it fails."""
    go = shutil.which("go")
    if go is None:
        tool(BY_NAME["kube"].name)
    done = subprocess.run(
        [str(go), "mod", "download", "-json", f"{module}@{version}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "GOFLAGS": "", "GOWORK": "off"},
        cwd=FOLDER,
    )
    return Path(json.loads(done.stdout)["Dir"])


def build(wanted: Tool, go: str) -> float:
    """Build a program and return the seconds that it took. What was there stays until the new one is whole."""
    began = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".building-") as made:
        if wanted.own_module:
            module = Path(made) / "module"
            module.mkdir()
            _run(go, made, "mod", "init", "tools.test", cwd=module)
            _run(go, made, "get", "-tool", f"{wanted.package}@{wanted.version}", cwd=module)
            _run(go, made, "build", "-o", f"{made}/{wanted.name}", wanted.package, cwd=module)
        elif wanted.folder:
            module = Path(__file__).parent / wanted.folder
            flags = ("-trimpath", "-tags", wanted.tags, "-ldflags", f"-s -w {wanted.linked}")
            output = f"{made}/{wanted.name}"
            _run(go, made, "build", *flags, "-o", output, wanted.program, cwd=module)
        else:
            _run(go, made, "install", f"{wanted.package}@{wanted.version}", cwd=Path(made))
        wanted.path.parent.mkdir(exist_ok=True)
        program = wanted.package.rpartition("/")[2]
        built = Path(made) / (wanted.name if (Path(made) / wanted.name).exists() else program)
        built.replace(wanted.path)
    return time.monotonic() - began


def _run(go: str, bin_folder: str, *words: str, cwd: Path) -> None:
    environment = {**os.environ, "GOBIN": bin_folder, "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    done = subprocess.run(
        [go, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILDS_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: go {' '.join(words)} failed:\n{done.stdout}{done.stderr}")


def main(names: list[str]) -> int:
    chosen = [one for one in TABLE if one.name in names or not names]
    missing = [one for one in chosen if not one.path.exists()]
    go = shutil.which("go")
    if missing and go is None:
        listed = ", ".join(one.name for one in missing)
        print(
            f"{'error' if is_ci() else 'skipped'}: no Go on this machine, so these are not built: {listed}"
        )
        return 1 if is_ci() else 0
    for one in missing:
        print(f"{one.name} {one.version}: being built", flush=True)
        print(f"{one.name} {one.version}: {build(one, str(go)):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
