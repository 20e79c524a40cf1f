"""One cluster for all end-to-end tests of a run, with every room. Files run in the order of their names: adapters, clients, differential, faults, kills, rooms, up. The last one ends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.bench import bare
from tests.bench import cluster as clusters
from tests.e2e.differential import Answer, ask
from tests.e2e.differential_cases import Case, cases

REPOSITORY = Path(__file__).parents[2]
GREETER = "tests.greeter.room:ROOM"
PLACES = 40  # 32 streams at once, and some more
EXTRA = (
    "--set",
    f"engine.max_num_seqs={PLACES}",
    "--set",
    "roles.sage.frame=You are a sage.",
    "--set",
    "gateway.drain_s=240",
    "--set",
    "profiles.quick.thinking=false",
    "--set",
    "roles.quick.profile=quick",  # a model of random weights would think until its answer is full
    "--set",
    "engine.lora.slots=4",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests in the order in which they are written, also where pytest-randomly has mixed them: some kill parts, and the last one ends the cluster."""
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if here in item.path.parents]
    ordered = sorted(
        (items[place] for place in places), key=lambda item: (item.path, item.location[1] or 0)
    )
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@dataclass(frozen=True)
class Begun:
    """The cluster, and the answers of vLLM's own server where a test asks for them."""

    cluster: clusters.Ours
    answers: dict[str, Answer]


@pytest.fixture(scope="session")
def begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begun]:
    """Both are started beside each other: a start leaves a quarter of the machine idle."""
    folder = tmp_path_factory.mktemp("cluster")
    is_compared = any(
        "wanted" in getattr(item, "fixturenames", ()) for item in request.session.items
    )
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        starting = pool.submit(
            stack.enter_context, clusters.up("tiny", folder, extra=EXTRA, env=with_rooms(GREETER))
        )
        try:
            answers = (
                _answers(folder, tmp_path_factory.mktemp("bare") / "server.log")
                if is_compared
                else {}
            )
        except RuntimeError:
            starting.result()  # says why, if it is the cluster
            raise
        yield Begun(starting.result(), answers)


def with_rooms(*rooms: str) -> dict[str, str]:
    """Return the environment for an `up` with rooms of these tests beside those of the house."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "CONSILIUM_ROOMS": ",".join(rooms), "PYTHONPATH": path}


def _answers(folder: Path, log: Path) -> dict[str, Answer]:
    """Return what vLLM's own server says to every case, with the same model folder and the same engine arguments.

    It has ended before ours is asked: the worker of an engine that has just answered spins on its core for a second, and both are bound to the same core.
    """
    core = clusters.planned(folder)
    with (
        bare.serve(
            core.model_path, core.arguments, env=core.env, log=log, name=core.served
        ) as server,
        httpx.Client(base_url=server.url, timeout=240) as client,
    ):
        return {case.name: _asked(client, case, server.model) for case in cases()}


def _asked(client: httpx.Client, case: Case, model: str) -> Answer:
    """Return the answer to a case; asked once more where the connection broke, which a server may end while it is idle, just as we write."""
    try:
        return ask(client, case, model)
    except httpx.TransportError:
        return ask(client, case, model)


@pytest.fixture(scope="session")
def cluster(begun: Begun) -> clusters.Ours:
    """A cluster with the tiny model and a role, brought up by the command that a user calls."""
    return begun.cluster
