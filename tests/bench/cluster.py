"""Our cluster under test: brought up by the command that a user calls, in a state folder of its own.

Knows the command line and cluster.json. Does not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from consilium.supervisor import processes
from consilium.supervisor.state_folder import StateFolder
from tests.bench import bare
from tests.command import consilium


@dataclass(frozen=True, slots=True)
class Core:
    """What the core of a cluster is started with: its model folder, its served name, vLLM's arguments and environment."""

    model_path: Path
    served: str
    arguments: dict[str, object]
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ours:
    """A running cluster. `first_token_s` counts from the command to the first token, `said` is what the command printed."""

    url: str
    grpc: str
    key: str
    state: Path
    core: Core
    first_token_s: float
    said: str

    def processes(self, *words: str) -> list[psutil.Process]:
        """Its processes with one of these words in their title."""
        mark = json.loads((self.state / "cluster.json").read_text())["mark"]
        found = []
        for known in processes.marked(mark):
            with contextlib.suppress(psutil.Error):
                process = processes.find(known)
                if process is not None and any(
                    word in " ".join(process.cmdline()) for word in words
                ):
                    found.append(process)
        return found

    def cores(self) -> list[psutil.Process]:
        """The engine's own processes, by the name that vLLM gives them."""
        return self.processes("EngineCore")

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Meanwhile the engine computes nothing: what is asked stays live, however fast or slow this machine is."""
        some = self.cores()
        assert some
        try:
            for process in some:
                process.suspend()
            yield
        finally:
            for process in some:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()


@contextlib.contextmanager
def up(
    model: str,
    folder: Path,
    *,
    config: Path | None = None,
    extra: tuple[str, ...] = (),
    wait_s: float = 600,
    env: Mapping[str, str] | None = None,
) -> Iterator[Ours]:
    """Bring a cluster up with `consilium up`, take it down on leaving. Raises RuntimeError with the command's words if it does not come up."""
    state = folder / "state"
    words = [
        "up",
        "--state",
        str(state),
        *(["-c", str(config)] if config else ["--model", model]),
        *extra,
    ]
    begin = time.monotonic()
    try:
        said = consilium(*words, timeout_s=wait_s, env=env)
        if said.returncode != 0:
            logs = "\n".join(
                f"== {log.name}\n{log.read_text(errors='replace')[-3000:]}"
                for log in sorted((state / "logs").glob("*.log"))
            )
            raise RuntimeError(
                f"consilium {' '.join(words)} ended with {said.returncode}\n{said.stdout}\n{said.stderr}\n{logs}"
            )
        known = json.loads((state / "cluster.json").read_text())
        url = known["addresses"]["openai"].removesuffix("/v1")
        bare.first_token(url, known["key"], "base", None, begin + wait_s)
        spent = time.monotonic() - begin
        yield Ours(
            url, known["addresses"]["grpc"], known["key"], state, _core(state), spent, said.stdout
        )
    finally:
        consilium("down", "--state", str(state), timeout_s=400)
        shutil.rmtree(
            StateFolder(state).ray_temp.parent, ignore_errors=True
        )  # `down` keeps the logs there


def planned(folder: Path, wait_s: float = 240) -> Core:
    """Return what the core of the cluster that is coming up there will be started with. Raises RuntimeError if nobody says so in time."""
    state = folder / "state"
    until = time.monotonic() + wait_s
    while not _has_model(state):
        if time.monotonic() > until:
            raise RuntimeError(f"no cluster has its model in {state}")
        time.sleep(0.1)
    return _core(state)


def _has_model(state: Path) -> bool:
    try:
        return bool(
            json.loads((state / "cluster.json").read_text())["parts"]["model"]["state"] == "up"
        )
    except (OSError, ValueError, KeyError):
        return False


def _core(state: Path) -> Core:
    """Return the core as the engine room planned it."""
    from consilium.demo.model import resolve
    from consilium.engine import model_facts, topology
    from consilium.engine.config import EngineView
    from consilium.engine.machine import local
    from consilium.engine.placement import BIND
    from consilium.kernel.config import load_json

    view = load_json(EngineView, state / "config.json")
    folder = resolve(view.model, state / "models")
    specs = topology.plan(view, local(), {view.model: model_facts.read(folder.path, folder.name)})
    core = next(spec for spec in specs if spec.name == topology.CORE)
    arguments = {
        k: v for k, v in core.launch_args.items() if k not in {"model", "served_model_name"}
    }
    if core.tool_parser is not None:
        arguments |= {"tool_call_parser": str(core.tool_parser), "enable_auto_tool_choice": True}
    env = dict(core.env)
    if core.cpu_lists:
        env[BIND] = core.cpu_lists[0]
    return Core(Path(core.model_path), core.served_name, arguments, env)
