"""The source as data for the tests of this folder: files, what they import, what they call. Reads text, runs nothing."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "services" / "consilium"


@dataclass(frozen=True)
class Import:
    """One imported module (`from a import b` counts as a.b where that is a module of ours), and its line."""

    module: str
    line: int

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@dataclass(eq=False)
class Source:
    """One Python file under services/consilium."""

    path: Path
    module: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Path within the package, such as engine/app.py."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def room(self) -> str:
        return self.name.partition("/")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self.tree, self.module, self.path))

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def texts(self, name: str) -> set[str]:
        """Every text that this file assigns to a variable, or to an attribute of a class, directly or by a conditional."""
        assigned = [
            node.value
            for node in self.nodes
            if isinstance(node, ast.Assign)
            and any(getattr(target, "id", "") == name for target in node.targets)
        ]
        return {
            node.value
            for value in assigned
            for node in _branches(value)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }


@cache
def sources() -> tuple[Source, ...]:
    """All files of the package but the generated ones."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "v1"):
            continue
        parts = ("consilium", *path.relative_to(PACKAGE).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, module, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that belongs to the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return tuple(
        path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()
    )


def _imports(tree: ast.Module, module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*above, base)) if base else ".".join(above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if _is_ours(inner) else base, node.lineno)


def _branches(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.IfExp):
        yield from (*_branches(node.body), *_branches(node.orelse))
    else:
        yield node


@cache
def _is_ours(module: str) -> bool:
    if not module.startswith("consilium."):
        return False
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return place.is_dir() or place.with_suffix(".py").is_file()
