"""k8s/images/Dockerfile as values: its stages, their steps, and the files of the build's context that are not ignored.

Knows the syntax. Does not know what a stage is good for, nor how a step is carried out.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "k8s" / "images" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")
TARGETS = ("services", "cpu", "gpu")
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_FLAG = re.compile(r"--([a-z-]+)=(\S+)\s+")


@dataclass(frozen=True)
class Step:
    """One instruction.

    flags  in their order, such as ("mount", "type=bind,from=wheels,target=/wheels")
    value  what follows them
    """

    word: str
    flags: tuple[tuple[str, str], ...]
    value: str

    @property
    def mounts(self) -> list[dict[str, str]]:
        """Its --mount flags, each as a table."""
        rows = [text for name, text in self.flags if name == "mount"]
        return [dict(part.split("=", 1) for part in row.split(",")) for row in rows]

    def flag(self, name: str) -> str:
        return dict(self.flags).get(name, "")

    @property
    def pairs(self) -> dict[str, str]:
        """NAME=value of ENV, ARG and LABEL; an ARG without a value has none."""
        return dict(word.partition("=")[::2] for word in shlex.split(self.value))


@dataclass
class Stage:
    """One FROM with what follows. `base` is an image or the name of a stage before it."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def of(self, word: str) -> list[Step]:
        return [step for step in self.steps if step.word == word]


@dataclass(frozen=True)
class Recipe:
    """The whole file. `arguments` stand before the first stage."""

    arguments: dict[str, str]
    stages: dict[str, Stage]
    comments: tuple[str, ...]

    def line(self, target: str) -> list[Stage]:
        """Return the stages that a target is made of, the first one first."""
        found = [self.stages[target]]
        while found[0].base in self.stages:
            found.insert(0, self.stages[found[0].base])
        return found

    def needs(self, target: str) -> list[str]:
        """Return the names of the stages that must be made for a target, each before what takes from it, itself last."""
        order: list[str] = []
        for stage in self.line(target):
            for step in stage.steps:
                for taken in [*(row.get("from", "") for row in step.mounts), step.flag("from")]:
                    if taken in self.stages:
                        order += self.needs(taken)
            order.append(stage.name)
        return list(dict.fromkeys(order))


def read(text: str | None = None) -> Recipe:
    """Return the recipe in a Dockerfile's text; ours, if none is given."""
    data = (text if text is not None else DOCKERFILE.read_text("utf-8")).encode()
    parser = DockerfileParser(fileobj=io.BytesIO(data))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    comments = []
    stage: Stage | None = None
    for row in parser.structure:
        word, value = row["instruction"], row["value"]
        if word == "COMMENT":
            comments.append(value)
        elif word == "FROM":
            base, _, name = re.sub(r"\s+as\s+", " AS ", value, flags=re.IGNORECASE).partition(" AS ")  # fmt: skip
            stage = Stage(name.strip(), filled(base.strip(), arguments))
            stages[stage.name] = stage
        elif stage is None:
            arguments |= Step(word, (), value).pairs
        else:
            stage.steps.append(_step(word, value))
    return Recipe(arguments, stages, tuple(comments))


def _step(word: str, value: str) -> Step:
    flags = []
    while found := _FLAG.match(value):
        flags.append((found[1], found[2]))
        value = value[found.end() :]
    return Step(word, tuple(flags), value)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return the text with ${NAME} replaced; a name that nobody has set becomes nothing."""
    return _NAMED.sub(lambda found: values.get(found[1] or found[2], ""), text)


def is_ignored(path: str, rules: str | None = None) -> bool:
    """Return whether .dockerignore leaves a path of the repository out: the last rule that meets it, or a folder above it, decides."""
    lines = (rules if rules is not None else IGNORED.read_text("utf-8")).splitlines()
    names = path.split("/")
    ways = [names[: number + 1] for number in range(len(names))]
    out = False
    for line in lines:
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").strip("/").split("/")
        if any(_meets(way, pattern) for way in ways):
            out = not rule.startswith("!")
    return out


def _meets(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_meets(names[skipped:], rest) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], first) and _meets(names[1:], rest)


def context(root: Path = REPOSITORY) -> Iterator[str]:
    """Return the files that a build gets to see, by their paths under `root`."""
    rules = IGNORED.read_text("utf-8")
    for name in ("pyproject.toml", "README.md", "LICENSE", "services", "k8s"):
        place = root / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            path = file.relative_to(root).as_posix()
            if file.is_file() and not is_ignored(path, rules):
                yield path
