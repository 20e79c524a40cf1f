"""Clients that tests use and that come from npm or from PyPI: a folder of their own for each set, with the versions that were seen to work.

    python -m tests.real.packages     installs what is missing; `make tools` does so

They lie under .cache/clients/, apart from what the cluster itself runs with: some of them ask for other versions of the same packages.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.tools import is_ci

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "clients"
PROGRAMS = ROOT / "tests" / "clients"
INSTALLS_S = 900.0


@dataclass(frozen=True)
class Packages:
    """One set. `command` is what installs and what runs it must be there as well."""

    name: str
    command: str
    wanted: tuple[str, ...]

    @property
    def path(self) -> Path:
        mark = hashlib.sha256(" ".join(self.wanted).encode()).hexdigest()[:8]
        return FOLDER / f"{self.name}-{mark}"

    @property
    def is_there(self) -> bool:
        return (self.path / "whole").exists()


NODE = Packages(
    "node",
    "npm",
    (
        "openai@7.55.0",
        "ai@7.0.173",
        "@ai-sdk/openai@4.0.118",
        "@ai-sdk/openai-compatible@3.0.92",
        "@langchain/openai@1.6.0",
        "zod@4.6.7",
    ),
)
PYTHON = Packages(
    "python",
    "uv",
    (
        "litellm==1.110.2",
        "llm==0.32.1",
        "llama-index-llms-openai-like==0.8.1",
        "llama-index-embeddings-openai-like==0.4.0",
    ),
)
CHECKOV = Packages("checkov", "uv", ("checkov==3.3.19",))
"""It lowers networkx and others that the cluster stands on."""
ALL = (NODE, PYTHON, CHECKOV)


def words(packages: Packages, program: str) -> list[str]:
    """Return the command line of a program; where its packages were not installed the test is skipped, in CI it fails."""
    if not packages.is_there:
        sentence = f"the {packages.name} clients are not installed here; 'make tools' does it, where {packages.command} is"
        if is_ci():
            pytest.fail(sentence)
        pytest.skip(sentence)
    if packages is not NODE:
        own = packages.path / "bin" / program  # what the packages bring, else one of the tests' own
        return [str(packages.path / "bin/python"), str(own if own.exists() else PROGRAMS / program)]
    # Node looks for packages beside the program.
    for file in PROGRAMS.glob("*.mjs"):
        shutil.copy(file, packages.path)
    return ["node", str(packages.path / program)]


def install(packages: Packages, command: str) -> None:
    shutil.rmtree(packages.path, ignore_errors=True)
    packages.path.mkdir(parents=True)
    if packages is NODE:
        (packages.path / "package.json").write_text("{}")
        _run(command, "install", "--no-fund", "--no-audit", *packages.wanted, cwd=packages.path)
    else:
        _run(
            command, "venv", "--allow-existing", "--python", sys.executable, ".", cwd=packages.path
        )
        _run(
            command, "pip", "install", "--python", "bin/python", *packages.wanted, cwd=packages.path
        )
    (packages.path / "whole").touch()


def _run(*told: str, cwd: Path) -> None:
    done = subprocess.run(
        told, cwd=cwd, capture_output=True, text=True, timeout=INSTALLS_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(told)} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    lacking = []
    for one in ALL:
        if one.is_there:
            continue
        beside = Path(sys.executable).with_name(one.command)
        command = str(beside) if beside.exists() else shutil.which(one.command)
        if command is None:
            lacking.append(one)
            continue
        print(f"{one.name} clients: being installed", flush=True)
        install(one, command)
    for one in lacking:
        print(
            f"{'error' if is_ci() else 'skipped'}: no {one.command} on this machine, so the {one.name} clients are not installed"
        )
    return 1 if lacking and is_ci() else 0


if __name__ == "__main__":
    sys.exit(main())
