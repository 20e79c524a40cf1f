"""Stages of k8s/images/Dockerfile as folders of this machine: each step in a root of its own, over the roots of the steps before it. No Docker.

A stage's files are one folder of an overlay over those of the stages below it, and the lowest is Debian from debootstrap with Debian's Python, in the place of
the image of Docker's hub. RUN is carried out by /bin/sh in a chroot, as root, with its mounts; COPY by cp. Needs root, debootstrap and overlay mounts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.real.image_recipe import REPOSITORY, Recipe, Stage, Step, context, filled

PACKAGES = "ca-certificates,netbase,tzdata,python3.11,python3-distutils,python3.11-venv"
"""What python:3.11-slim-bookworm has beside Debian's smallest, with Debian's Python for the one that is compiled there."""
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
STEP_S = 3000.0
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILDERS = {"HOME": "/root", "SSL_CERT_FILE": str(_CERTIFICATES)}
"""What a step gets and an image does not keep: this machine's certificates are laid over the root's."""


@dataclass(frozen=True)
class Layer:
    """What one step left: seconds it took, and bytes on the disk."""

    step: str
    seconds: float
    size: int


class Roots:
    """The roots of a recipe's stages, under one folder.

    base     folder of Debian's root, which several may share
    wheels   folder that stands for the build context `wheels`, or None
    network  whether steps may use it
    cache    folder of uv's cache that lasts, or None for an empty one
    """

    def __init__(self, recipe: Recipe, folder: Path, *, base: Path, wheels: Path | None = None, network: bool = True, cache: Path | None = None):  # fmt: skip
        self.recipe, self.folder, self.network = recipe, folder, network
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wheels, self._cache = wheels, cache or folder / "cache"
        self._cache.mkdir(exist_ok=True)
        self.base = base
        self.layers: dict[str, list[Layer]] = {}
        self._environment: dict[str, dict[str, str]] = {}

    def make_base(self) -> float:
        """Make Debian's root unless it is there, and return the seconds."""
        began = time.monotonic()
        if not (self.base / "whole").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(self.base))  # fmt: skip
            for name in ("python3.11", "python3", "python"):
                (self.base / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
            shutil.rmtree(self.base / "var/cache/apt")
            shutil.rmtree(self.base / "var/lib/apt/lists")
            (self.base / "var/cache/apt/archives/partial").mkdir(parents=True)
            (self.base / "var/lib/apt/lists/partial").mkdir(parents=True)
            for name in ("hosts", "resolv.conf"):  # debootstrap takes this machine's
                (self.base / "etc" / name).write_text("")
            (self.base / "whole").touch()
        return time.monotonic() - began

    def make(self, target: str) -> None:
        """Carry out every step that the target needs."""
        self._lay_context()
        for name in self.recipe.needs(target):
            if name not in self.layers:
                self._make_stage(self.recipe.stages[name])
        (self.folder / "made.json").write_text(json.dumps([{name: [asdict(row) for row in rows] for name, rows in self.layers.items()}, self._environment]))  # fmt: skip

    def recall(self) -> None:
        """Take what an earlier `make` has left."""
        layers, self._environment = json.loads((self.folder / "made.json").read_text())
        self.layers = {name: [Layer(**row) for row in rows] for name, rows in layers.items()}

    def environment(self, target: str) -> dict[str, str]:
        """Return the environment that a container of the target begins with."""
        return self._environment[target]

    def size(self, target: str) -> int:
        """Return the bytes of a target's files, the base's included."""
        below = [stage.name for stage in self.recipe.line(target)]
        return _size(self.base) + sum(row.size for name in below for row in self.layers[name])

    def lowers(self, target: str) -> list[Path]:
        """Return the folders that a target's root is made of, the uppermost first."""
        line = [stage.name for stage in self.recipe.line(target)]
        return [*(self._upper(name) for name in reversed(line)), self.base]

    # one stage

    def _upper(self, name: str) -> Path:
        return self.folder / "stages" / name

    def _lay_context(self) -> None:
        place = self.folder / "context"
        shutil.rmtree(place, ignore_errors=True)
        for path in context():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / path, place / path)

    def _make_stage(self, stage: Stage) -> None:
        upper = self._upper(stage.name)
        shutil.rmtree(upper, ignore_errors=True)
        upper.mkdir(parents=True)
        if stage.base == "scratch":
            self.layers[stage.name] = []
            return
        environment = dict(self._environment.get(stage.base, {"PATH": BASE_PATH, "LANG": "C.UTF-8"}))  # fmt: skip
        arguments: dict[str, str] = {}
        place, layers = "/", []
        for step in stage.steps:
            if step.word == "ARG":
                arguments |= {k: v or self.recipe.arguments.get(k, "") for k, v in step.pairs.items()}  # fmt: skip
            elif step.word == "ENV":
                environment |= {k: filled(v, environment | arguments) for k, v in step.pairs.items()}  # fmt: skip
            elif step.word in ("RUN", "COPY", "WORKDIR"):
                began, before = time.monotonic(), _size(upper)
                if step.word == "WORKDIR":
                    place = step.value
                self._carry_out(stage, step, {**arguments, **environment}, place)
                layers.append(Layer(f"{step.word} {step.value[:90]}", time.monotonic() - began, _size(upper) - before))  # fmt: skip
        self.layers[stage.name] = layers
        self._environment[stage.name] = environment

    def _carry_out(self, stage: Stage, step: Step, environment: dict[str, str], place: str) -> None:
        root = self.folder / "root"
        lines = [*_overlay(root, self._upper(stage.name), self.lowers(stage.name)[1:], self.folder / "work")]  # fmt: skip
        if step.word == "WORKDIR":
            words, place = ["mkdir", "-p", place], "/"
        elif step.word == "COPY":
            source = self._source(step.flag("from"))
            lines += [f"mkdir -p {root}/.taken", f"mount --bind {source} {root}/.taken"]
            words = ["sh", "-c", _copied(step)]
        else:
            words = ["sh", "-c", step.value]
            for row in step.mounts:
                lines += self._mounted(root, row)
        lines += [*_ground(root), _chrooted(root, place, environment, words)]
        spaces = ["-m", "-p", "-f", "--kill-child", *([] if self.network else ["-n"])]
        _do("unshare", *spaces, "sh", "-c", "\n".join(["set -e", *lines]), limit_s=STEP_S)
        self._forget_mounts(stage, step)

    def _mounted(self, root: Path, row: dict[str, str]) -> list[str]:
        at = f"{root}{row['target']}"
        if row["type"] == "cache":
            return [f"mkdir -p {at}", f"mount --bind {self._cache} {at}"]
        source = self._source(row.get("from", "")) / row.get("source", "").lstrip("/")
        make = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
        return [make, f"mount --bind {source} {at}", f"mount -o remount,bind,ro {at}"]

    def _source(self, name: str) -> Path:
        if not name:
            return self.folder / "context"
        if name == "wheels" and self._wheels is not None:
            return self._wheels
        return self._upper(name)

    def _forget_mounts(self, stage: Stage, step: Step) -> None:
        """Remove the places at which something was mounted: an image does not keep them."""
        upper = self._upper(stage.name)
        places = [row["target"] for row in step.mounts] + ["/.taken", "/etc/resolv.conf", "/etc/hosts", str(_CERTIFICATES)]  # fmt: skip
        for place in places:
            found = upper / place.lstrip("/")
            if found.is_file() and not found.stat().st_size:
                found.unlink()
            while found != upper:
                with contextlib.suppress(OSError):
                    found.rmdir()  # only where it is empty
                found = found.parent


@contextlib.contextmanager
def container(
    roots: Roots, target: str, words: list[str], *, folder: Path, binds: dict[str, Path], net: str,
    environment: dict[str, str] | None = None, importing: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run words as the chart's containers run: a read-only root, user 10001, nothing but the folders of `binds` to write to.

    folder  where its log lies, with the names of what was imported and how long that took where `importing`
    net     name of a network namespace

    The command of a container that must end is waited for by the caller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / "root"
    lines = ["mount --make-rprivate /", f"mkdir -p {root}", f"mount -t tmpfs none {root}", f"mkdir {root}/u {root}/w {root}/r"]  # fmt: skip
    lines += [f"mount -t overlay o -o lowerdir={_joined(roots.lowers(target))},upperdir={root}/u,workdir={root}/w {root}/r"]  # fmt: skip
    root = root / "r"
    lines.append(f'echo "127.0.0.1 localhost $(hostname)" > {root}/etc/hosts')
    for at, source in sorted(binds.items()):
        make = f"mkdir -p {root}{at}" if source.is_dir() else f"mkdir -p $(dirname {root}{at}); touch {root}{at}"  # fmt: skip
        lines += [make, f"mount --bind {source} {root}{at}"]
    lines += [f"mkdir -p {root}/dev {root}/sys", f"mount -t tmpfs -o mode=755 none {root}/dev", f"mkdir {root}/dev/shm", f"mount -t tmpfs -o mode=1777 none {root}/dev/shm"]  # fmt: skip
    for device in ("null", "zero", "full", "random", "urandom", "tty"):
        lines += [f"touch {root}/dev/{device}", f"mount --bind /dev/{device} {root}/dev/{device}"]
    given = roots.environment(target) | ({"PYTHONPROFILEIMPORTTIME": "1"} if importing else {}) | (environment or {})  # fmt: skip
    variables = " ".join(shlex.quote(f"{k}={v}") for k, v in given.items())
    user = next(step.value for step in reversed(roots.recipe.stages[target].steps) if step.word == "USER")  # fmt: skip
    lines += [
        f"mount --rbind /sys {root}/sys", f"mount -t proc proc {root}/proc",
        f"mount -o remount,ro {root}",
        f"exec chroot --userspec={user} --groups= {root} /usr/bin/env -i -C {roots.recipe.stages['base'].of('WORKDIR')[-1].value} {variables} {shlex.join(words)}",
    ]  # fmt: skip
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", net, "unshare", "-m", "-p", "-f", "--kill-child", "setpriv", "--no-new-privs", "sh", "-c", "\n".join(["set -e", *lines])],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a container: its first process, with which the kernel ends all others of its namespace."""
    if process.poll() is not None:
        return
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def inside(roots: Roots, script: str, *, binds: dict[str, Path]) -> None:
    """Run a line of shell as root in the base's root, with a network; what it writes elsewhere than in `binds` is forgotten."""
    aside = roots.folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    root = roots.folder / "root"
    lines = [*_overlay(root, aside, [roots.base], roots.folder / "work"), *_ground(root)]
    for at, source in binds.items():
        lines += [f"mkdir -p {root}{at}", f"mount --bind {source} {root}{at}"]
    lines.append(_chrooted(root, "/", {"PATH": BASE_PATH, "LANG": "C.UTF-8"}, ["sh", "-c", script]))
    _do("unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c", "\n".join(["set -e", *lines]), limit_s=STEP_S)  # fmt: skip
    shutil.rmtree(aside)


def _ground(root: Path) -> list[str]:
    """Return what every step finds beside its files: devices, processes, an empty /tmp, and this machine's names and certificates."""
    lines = []
    for path in ("/etc/resolv.conf", "/etc/hosts", str(_CERTIFICATES)):
        lines += [f"[ -e {root}{path} ] || touch {root}{path}", f"mount --bind {path} {root}{path}"]
    return [*lines, f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc", f"mount -t tmpfs none {root}/tmp"]  # fmt: skip


def _chrooted(root: Path, place: str, environment: dict[str, str], words: list[str]) -> str:
    variables = " ".join(shlex.quote(f"{k}={v}") for k, v in (_BUILDERS | environment).items())
    return f"chroot {root} /usr/bin/env -i -C {shlex.quote(place)} {variables} {shlex.join(words)}"


def _copied(step: Step) -> str:
    """Return what a COPY does as a line of shell, with its sources under /.taken."""
    *sources, into = shlex.split(step.value)
    lines = ["set -e"]
    for source in sources:
        at = f"/.taken/{source}"
        lines.append(
            f"if [ -d {at} ]; then mkdir -p {into}; cp -a {at}/. {into}; else mkdir -p $(dirname {into}x); cp {at} {into}; fi"
        )
        if step.flag("chmod"):
            lines.append(f"chmod {step.flag('chmod')} {into}")
    return "\n".join(lines)


def _overlay(root: Path, upper: Path, lowers: list[Path], work: Path) -> list[str]:
    return [
        "mount --make-rprivate /", f"rm -rf {work}", f"mkdir -p {root} {work}",
        f"mount -t overlay o -o lowerdir={_joined(lowers)},upperdir={upper},workdir={work} {root}",
    ]  # fmt: skip


def _joined(folders: list[Path]) -> str:
    return ":".join(str(folder) for folder in folders)


def _size(folder: Path) -> int:
    """Return the bytes of a folder's files, each file once."""
    seen: set[int] = set()
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(place, name))
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                total += found.st_size
    return total


def _do(*words: str, limit_s: float = 900.0) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")  # fmt: skip
