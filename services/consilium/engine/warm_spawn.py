"""Processes that import their libraries before anybody knows what they will do, so that a spawn needs no second import.

vLLM starts three processes one after the other (front-end, engine core, workers), and each imports the same libraries for ten seconds of a core. Here
the later ones are started beside the first: `prepare` starts warm children, and the next processes that `multiprocessing` spawns for vLLM become
them. A child may also be forked from another one after its imports, and shares them in memory. A warm child is used only if its environment is what the
spawn would have given it (libraries read it when they are loaded) and the file descriptors fit; otherwise the spawn goes its ordinary way, and the child
is ended with the others that nobody became. Knows multiprocessing's spawn and POSIX. Does not know vLLM.

    parent                                   child (python -m consilium.engine.warm_spawn FD)
    prepare(plan)            -- plan -->      starts its own children, imports plan.modules, forks the rest of its children
    Process.start()          -- fds, env -->  puts the descriptors where the parent's have them, takes its environment
                             <-- yes/no --    yes: goes on as multiprocessing's own child would
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import context, popen_spawn_posix, reduction, resource_tracker, spawn, util
from pathlib import Path
from typing import Any, Final, Protocol

from consilium.kernel import logs
from consilium.kernel.process import become_environment, child_environment

_log = logs.get("engine")

PLACES: Final = (
    512  # descriptors below this number are kept free in a child for those of its parent
)
ANSWER_S: Final = 60.0
READ_EARLY: Final = (
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "MALLOC_",
    "LD_PRELOAD",
    "PYTHONHASHSEED",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCHINDUCTOR_CPP",
)
"""Beginnings of variables that libraries read when they are loaded. Others are set before the child goes on."""
MODULE: Final = "consilium.engine.warm_spawn"
_TASKS: Final = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one warm child shall be ready for.

    modules      imported at once
    environment  what the spawn will have set by then, on top of this process's own environment
    target       beginning of the module of the function that the spawned process will run
    then         children that the child prepares in turn
    forked       False = a process that imports by itself; True = forked from the one that prepares it when that one has imported, with its environment
    indifferent  beginnings of variables that this process would not read: they need not be equal
    """

    modules: tuple[str, ...]
    environment: dict[str, str]
    target: str = "vllm."
    then: tuple[Plan, ...] = ()
    forked: bool = False
    indifferent: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Plan:
        """Return the plan that `asdict` wrote."""
        lists = {
            "modules": tuple(raw["modules"]),
            "then": tuple(cls.of(child) for child in raw["then"]),
            "indifferent": tuple(raw["indifferent"]),
        }
        return cls(**{**raw, **lists})


class _Process(Protocol):
    """What is needed of a child, started or forked."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


class _Forked:
    """A child that was forked and not started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        return self._wait(0) or 0

    def _wait(self, flags: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, flags)
            except ChildProcessError:  # somebody else waited for it
                self.returncode = -1
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class _Child:
    """One warm process and the line to it."""

    def __init__(
        self, plan: Plan, line: socket.socket, process: _Process, environment: Mapping[str, str]
    ) -> None:
        self.plan, self.line, self.process, self.environment = plan, line, process, environment

    @classmethod
    def start(cls, plan: Plan) -> _Child:
        """Start a process of its own."""
        environment = child_environment(plan.environment)
        line, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", MODULE, str(theirs.fileno())]
            process = subprocess.Popen(  # noqa: S603
                command, env=environment, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
            )
        with suppress(OSError):  # it died at once; whoever wants it sees that
            line.sendall(_framed(json.dumps(asdict(plan)).encode()))
        return cls(plan, line, process, environment)

    def become(self, fds: list[int], tracker: int) -> bool:
        """Ask the child to go on with these descriptors, the pipe first. False if it cannot."""
        self.line.settimeout(ANSWER_S)
        cores = sorted(os.sched_getaffinity(0))
        raw = _framed(
            json.dumps(
                {
                    "fds": fds,
                    "tracker": tracker,
                    "environment": child_environment({}),
                    "cores": cores,
                }
            ).encode()
        )
        socket.send_fds(self.line, [raw[:1]], fds)
        self.line.sendall(raw[1:])
        return self.line.recv(1) == b"y"

    def fits(self) -> str:
        """Return why this child may not be used, or an empty string."""
        if self.process.poll() is not None:
            return f"it ended with {self.process.returncode}"
        now = child_environment({})
        names = {
            name
            for name in {*now, *self.environment}
            if name.startswith(READ_EARLY) and not name.startswith(self.plan.indifferent)
        }
        other = {name for name in names if now.get(name) != self.environment.get(name)}
        return f"the environment differs in {', '.join(sorted(other))}" if other else ""

    def end(self) -> None:
        self.line.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class _WarmPopen(popen_spawn_posix.Popen):
    """multiprocessing's spawn, into a process that runs already."""

    children: list[_Child] = []  # noqa: RUF012  # one list for the process, as multiprocessing has one start method

    def _launch(self, process_obj: Any) -> None:
        child = _take(process_obj)
        if child is None or not self._into(child, process_obj):
            self._fds: list[int] = []
            super()._launch(process_obj)  # type: ignore[misc]  # typeshed leaves it out

    def _into(self, child: _Child, process_obj: Any) -> bool:
        tracker = int(resource_tracker.getfd() or 0)
        prepared = spawn.get_preparation_data(process_obj.name)
        for key in (
            "init_main_from_name",
            "init_main_from_path",
        ):  # the target's module is imported already, and it is not the main one
            prepared.pop(key, None)
        data = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(prepared, data)
            reduction.dump(process_obj, data)
        finally:
            context.set_spawning_popen(None)
        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        fds = [child_r, *dict.fromkeys([*self._fds, tracker, child_w])]
        try:
            became = child.become(fds, tracker)
        except OSError:
            became = False
        os.close(child_r)
        os.close(child_w)
        if not became:
            os.close(parent_r)
            os.close(parent_w)
            child.end()
            _log.info("warm_child_unused", why="its descriptors do not fit")
            return False
        child.line.close()
        child.process.returncode = 0  # multiprocessing waits for it from here on
        self.pid, self.sentinel = child.process.pid, parent_r
        with open(parent_w, "wb", closefd=False) as pipe:
            pipe.write(data.getbuffer())
        self.finalizer = util.Finalize(self, _close, (parent_r, parent_w))
        return True


def prepare(*plans: Plan) -> None:
    """Start a warm child for each plan. The next processes that multiprocessing spawns for their targets become them, in this order."""
    _WarmPopen.children = [_Child.start(plan) for plan in plans]
    if plans:
        _take_spawns()


def _take_spawns() -> None:
    context.SpawnProcess._Popen = staticmethod(_WarmPopen)  # type: ignore[method-assign]  # noqa: SLF001  # the one place where spawn is chosen


def load(*modules: str) -> None:
    """Import modules that are there; the others are passed over. No garbage is collected meanwhile: nearly all that an import makes stays, and looking
    through it again and again is a seventh of the time (vLLM 0.32: 15.0 s of a core, 12.8 s without).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            with suppress(ImportError):
                importlib.import_module(module)
    finally:
        if collects:
            gc.enable()


def waiting() -> tuple[int, ...]:
    """Return the process ids of the warm children that nobody became yet."""
    return tuple(child.process.pid for child in _WarmPopen.children)


def end_unused() -> None:
    """End the warm children that nobody became, and let spawns go their ordinary way again."""
    children, _WarmPopen.children = _WarmPopen.children, []
    for child in children:
        child.end()
    context.SpawnProcess._Popen = staticmethod(popen_spawn_posix.Popen)  # type: ignore[method-assign]  # noqa: SLF001


def _take(process_obj: Any) -> _Child | None:
    """Return the first child that may become this process; those that may not are left for others."""
    module = str(getattr(getattr(process_obj, "_target", None), "__module__", ""))
    for child in _WarmPopen.children:
        if module.startswith(child.plan.target):
            why = child.fits()
            if not why:
                _WarmPopen.children.remove(child)
                return child
            _log.info("warm_child_unused", why=why)
    return None


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _framed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


def _read(line: socket.socket, first: bytes = b"") -> bytes:
    def exactly(count: int, have: bytes = b"") -> bytes:
        while len(have) < count:
            more = line.recv(count - len(have))
            if not more:
                sys.exit(0)  # the parent is gone
            have += more
        return have

    return exactly(int.from_bytes(exactly(4, first), "big"))


def _child_main(number: int) -> int:
    theirs = socket.socket(fileno=number)
    high = socket.socket(fileno=os.dup2(theirs.fileno(), PLACES + 1))
    theirs.close()
    plan = Plan.of(json.loads(_read(high)))
    free = _keep_free()
    prepare(*(child for child in plan.then if not child.forked))
    load(*plan.modules)
    for child in reversed([child for child in plan.then if child.forked]):
        if (line := _fork(child)) is not None:
            high.close()
            high, plan = line, child
            break
    first, received, _, _ = socket.recv_fds(high, 1, 64)
    if not first:
        end_unused()
        return 0
    asked = json.loads(_read(high, first))
    if not free.issuperset(asked["fds"]):
        high.sendall(b"n")
        end_unused()
        return 0
    for have, want in zip(
        received, asked["fds"], strict=True
    ):  # what came lies above the places, so nothing is overwritten that is still needed
        os.dup2(have, want)
        os.close(have)
    for fd in free.difference(asked["fds"]):
        os.close(fd)
    become_environment(asked["environment"])
    if (
        plan.indifferent
    ):  # loaded as another is, so the cores that its OpenMP has bound it to are another's
        os.sched_setaffinity(0, asked["cores"])
    high.sendall(b"y")
    high.close()
    return _go_on(asked["fds"][0], asked["tracker"])


def _fork(plan: Plan) -> socket.socket | None:
    """Fork a child that takes the first place among ours. Return its line in the child, None here.

    Nothing is forked where an import has started a thread: it would be missing in the child, with what it may hold.
    """
    if len(list(_TASKS.iterdir())) > 1:
        _log.info("warm_child_unused", why="an import has started threads")
        return None
    gc.freeze()  # what is there stays, so that a later collection does not touch, and so copy, the memory that both share
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        _log.info("warm_child_unused", why=repr(error))
        return None
    if pid:
        theirs.close()
        _WarmPopen.children.insert(0, _Child(plan, ours, _Forked(pid), child_environment({})))
        _take_spawns()
        return None
    ours.close()
    for other in _WarmPopen.children:
        other.line.close()
    _WarmPopen.children = []
    return theirs


def _keep_free() -> set[int]:
    """Occupy the low descriptors, so that no library takes one that the parent's number will need."""
    null = os.open(os.devnull, os.O_RDONLY)
    taken = {null}
    while (fd := os.dup(null)) < PLACES:
        taken.add(fd)
    os.close(fd)
    return taken


def _go_on(pipe: int, tracker: int) -> int:
    """Do what multiprocessing.spawn.spawn_main does in a process of its own."""
    resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]  # noqa: SLF001  # so does spawn_main
    return int(spawn._main(pipe, os.dup(pipe)))  # noqa: SLF001


if __name__ == "__main__":
    sys.exit(_child_main(int(sys.argv[1])))
