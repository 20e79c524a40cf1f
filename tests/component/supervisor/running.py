"""A state folder with its processes, and a supervisor in a thread of this process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consilium.supervisor.loop import Supervisor
from consilium.supervisor.part_process import ProcessWork, Work
from consilium.supervisor.state_folder import Cluster, PartRecord, StateFolder
from consilium.supervisor.states import Part

# A head that makes its file and has a grandchild which ignores SIGTERM, as an engine core may.
HEAD = """
import pathlib, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
MILD = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
"""A head that ends when it is told, for those tests that are about something else."""
SHARER = """
import multiprocessing, time
from multiprocessing.shared_memory import SharedMemory
context = multiprocessing.get_context("spawn")
lock, block = context.Lock(), SharedMemory(create=True, size=4096)
print("sem." + lock._semlock.name.lstrip("/"), block.name.lstrip("/"), flush=True)
time.sleep(600)
"""
TASK = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')"
BROKEN = "import sys; sys.exit('error: x: there is no folder /x')"


@dataclass
class Site:
    folder: StateFolder
    cluster: Cluster
    environment: dict[str, str]

    def process(
        self,
        name: str,
        code: str,
        *words: str,
        probe: Callable[[], tuple[bool, str]],
        after: Callable[[], None] | None = None,
    ) -> ProcessWork:
        return ProcessWork(
            (sys.executable, "-c", code, *words),
            log=self.folder.log(name),
            environment=self.environment,
            probe=probe,
            after=after,
        )

    def supervisor(
        self,
        works: Mapping[str, Work],
        *parts: Part,
        drain: Callable[[], None] | None = None,
    ) -> Supervisor:
        """A supervisor of these works; a part that is not described is vital and needs nothing."""
        described = {part.name: part for part in parts}
        rows = tuple(described.get(name, Part(name)) for name in works)
        return Supervisor(
            folder=self.folder, cluster=self.cluster, parts=rows, works=works, drain=drain
        )

    def head(self, code: str = MILD, name: str = "ray", **more: Callable[[], None]) -> ProcessWork:
        """A process that is up once it has made a file."""
        ready = self.folder.root / f"{name}.ready"
        return self.process(name, code, str(ready), probe=lambda: (ready.exists(), ""), **more)


class Running:
    """A supervisor in a thread of this process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def state(self, name: str) -> str:
        part = self.supervisor.cluster.parts.get(name)
        return part.state if part else ""

    def part(self, name: str) -> PartRecord:
        return self.supervisor.cluster.parts[name]

    def stop(self) -> int | None:
        self.supervisor.ask_to_stop()
        self.thread.join(60)
        return self.code


def ray_like(site: Site, head: str = HEAD) -> Supervisor:
    ready, done = site.folder.root / "ready", site.folder.root / "done"
    works = {
        "ray": site.process(
            "ray",
            head,
            str(ready),
            probe=lambda: (ready.exists(), ""),
            after=lambda: ready.unlink(missing_ok=True),
        ),
        "engine": site.process("engine", TASK, str(done), probe=lambda: (done.exists(), "")),
    }
    parts = (Part("ray"), Part("engine", needs=("ray",), lives=False, within=("ray",)))
    return Supervisor(
        folder=site.folder,
        cluster=site.cluster,
        parts=parts,
        works=works,
    )
