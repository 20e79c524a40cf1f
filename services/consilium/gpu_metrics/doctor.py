"""Checks of what tells how the cards are: NVML, cards that the driver has lost, and the exporter of a running cluster.

Knows the driver's folder in /proc, the one reader of cards and the exporter's page. Starts nothing.
"""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from consilium.gpu_metrics.ports import P
from consilium.kernel import gpus
from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, failure, ok, warning

DRIVER: Final = Path("/proc/driver/nvidia")
ANSWER_S: Final = 3.0
RECENT_S: Final = 600.0
"""So long an XID counts as one of now."""
_PCI_END: Final = 12
"""Characters of a PCI address that /proc and NVML write alike: 0000:01:00.0."""


@dataclass(frozen=True, slots=True)
class NvmlSeen:
    """How the driver may be asked.

    module   whether the driver's kernel module is loaded
    library  whether its library can be loaded
    binding  whether nvidia-ml-py is installed
    known    PCI addresses of the cards that the module knows
    told     PCI addresses of those that NVML tells, or None where it tells none and says why
    """

    module: bool = False
    library: bool = False
    binding: bool = False
    known: tuple[str, ...] = ()
    told: tuple[str, ...] | None = None


def look_at(driver: Path) -> NvmlSeen:
    """Return how a driver may be asked whose kernel module shows itself in this folder."""
    if not driver.is_dir():
        return NvmlSeen()
    known = tuple(sorted(path.name.lower() for path in (driver / "gpus").glob("*:*")))
    seen = gpus.read(limit_s=4.0)
    told = tuple(sorted({card.pci_bus_id.lower()[-_PCI_END:] for card in seen.cards}))
    return NvmlSeen(
        module=True,
        library=gpus.has_driver(),
        binding=importlib.util.find_spec("pynvml") is not None,
        known=known,
        told=told if seen.cards else None,
    )


NVML: Final = Fact("nvml", "NVML", lambda _: look_at(DRIVER), limit_s=9.0)


@dataclass(frozen=True, slots=True)
class ExporterSeen:
    """What the exporter of a running cluster says.

    answers  whether the driver answers it
    age_s    of the figures, None before the first
    stuck    readers that hang in the driver
    lost     cards that answer no more
    recent   XIDs of the last minutes: card -> their numbers
    """

    answers: bool
    age_s: float | None = None
    stuck: int = 0
    lost: tuple[str, ...] = ()
    recent: Mapping[str, Sequence[str]] | None = None


def _exporter(subject: Subject) -> ExporterSeen | None:
    """Return what the exporter says, or None where none runs: a part that is down is told by the cluster's own checks."""
    try:
        tree = json.loads((subject.state / "config.json").read_text(encoding="utf-8"))
        address = tree["services"]["gpu_metrics"]["metrics"]
        with urllib.request.urlopen(f"{address}/metrics", timeout=ANSWER_S) as answer:  # noqa: S310  an address that `up` wrote
            return read_page(answer.read().decode(), time.time())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_page(text: str, now: float) -> ExporterSeen:
    """Return what a page says. Raises ValueError for one that is none."""
    rows = [row for family in text_string_to_metric_families(text) for row in family.samples]

    def figures(name: str) -> dict[str, float]:
        return {row.labels.get("uuid", ""): row.value for row in rows if row.name == f"{P}{name}"}

    last = figures("xid_last_timestamp_seconds")
    fresh = [uuid for uuid, at in last.items() if now - at < RECENT_S]
    xids = [row for row in rows if row.name == f"{P}xid_errors_total"]
    return ExporterSeen(
        answers=figures("driver_up").get("", 0.0) > 0,
        age_s=figures("sample_age_seconds").get(""),
        stuck=int(figures("readers_stuck").get("", 0.0)),
        lost=tuple(uuid for uuid, is_up in figures("up").items() if not is_up),
        recent={
            uuid: [row.labels["xid"] for row in xids if row.labels["uuid"] == uuid]
            for uuid in fresh
        },
    )


EXPORTER: Final = Fact(
    "gpu_exporter", "The exporter of the cards' figures", _exporter, limit_s=2 * ANSWER_S
)


def _nvml(facts: Facts) -> Verdict:
    seen = facts[NVML]
    if not seen.library:
        return failure(what="the driver is loaded, and its library libnvidia-ml.so.1 is not here")
    if not seen.binding:
        return warning(what="nvidia-ml-py is not installed, so cards have no figures")
    return ok()


def _cards(facts: Facts) -> Verdict:
    seen = facts[NVML]
    lost = [address for address in seen.known if address not in (seen.told or ())]
    return failure(lost=", ".join(lost)) if lost else ok(count=len(seen.known))


def _answers(facts: Facts) -> Verdict:
    seen = _seen(facts)
    age = "no figure yet" if seen.age_s is None else f"figures are {seen.age_s:.0f} s old"
    stuck = f", {seen.stuck} readers hang in it and cannot be ended" if seen.stuck else ""
    return ok(age=age) if seen.answers else failure(age=age, stuck=stuck)


def _lost(facts: Facts) -> Verdict:
    lost = _seen(facts).lost
    return failure(lost=", ".join(lost)) if lost else ok()


def _xids(facts: Facts) -> Verdict:
    found = _seen(facts).recent or {}
    told = "; ".join(f"{uuid}: {', '.join(numbers)}" for uuid, numbers in found.items())
    return warning(told=told) if found else ok()


def _seen(facts: Facts) -> ExporterSeen:
    return facts[EXPORTER] or ExporterSeen(answers=True)


def _runs(facts: Facts) -> bool:
    return facts[EXPORTER] is not None


ROWS: Final = (
    Row(
        "gpu_nvml",
        "NVML",
        (NVML,),
        _nvml,
        "{what}",
        "On a machine: install the driver anew, or 'make setup LANE=gpu' for nvidia-ml-py. In a container: NVIDIA's runtime, with NVIDIA_DRIVER_CAPABILITIES=compute,utility.",
        when=lambda facts: facts[NVML].module,
    ),
    Row(
        "gpu_lost",
        "cards on the bus",
        (NVML,),
        _cards,
        "the kernel knows of cards that the driver tells no more: {lost}",
        "'dmesg | grep -i xid' says why (79: it fell off the bus). Look at power and risers, and reboot.",
        "{count}",
        when=lambda facts: facts[NVML].told is not None,
    ),
    Row(
        "gpu_exporter",
        "figures of the cards",
        (EXPORTER,),
        _answers,
        "the driver does not answer the exporter: {age}{stuck}",
        "See whether nvidia-smi hangs too; then only a reboot helps. 'consilium logs gpu_metrics' says since when.",
        "{age}",
        when=_runs,
    ),
    Row(
        "gpu_card_down",
        "cards of the cluster",
        (EXPORTER,),
        _lost,
        "these answer no more: {lost}",
        "'dmesg | grep -i xid' says why. Look at power and risers, and reboot; until then take them out with CUDA_VISIBLE_DEVICES.",
        when=_runs,
    ),
    Row(
        "gpu_xid",
        "errors of the cards",
        (EXPORTER,),
        _xids,
        "XIDs in the last minutes: {told}",
        "13, 31 and 43 blame the program; 48, 62, 64, 74, 79, 95, 119 and 120 the card, its memory or its slot: 'dmesg | grep -i xid' has the rest.",
        when=_runs,
    ),
)
