"""Checks of what `up` would refuse or download: the model, the cards it is asked for, whether it fits, and the hub.

They ask what preflight.py asks, without starting anything. Knows the whole tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consilium.cli import cards_here, preflight, preflight_adapters
from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine.config import BUILT_IN_MODELS
from consilium.engine.doctor import GPUS
from consilium.kernel.config import environment_value
from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, failure, note, ok, warning
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.gpus import Gpu
from consilium.supervisor.doctor import CLUSTER
from consilium.supervisor.model_step import models_of
from consilium.supervisor.state_folder import StateFolder

HUB: Final = "https://huggingface.co"
HUB_S: Final = 3.0
GIB: Final = 2**30
Say = Callable[[str], None]


def _tree(subject: Subject) -> ConsiliumConfig | None:
    return subject.tree if isinstance(subject.tree, ConsiliumConfig) else None


def _asked(check: Callable[[Say], None]) -> Verdict:
    """Return what one of up's checks says: its refusal is a failure, its warning a warning, its note a note."""
    said: list[str] = []
    try:
        check(said.append)
    except ConsiliumError as error:
        return failure(sentence=error.public(), way_out=error.row.next_step)
    for line in said:
        kind, _, sentence = line.partition(": ")
        told = {
            "sentence": sentence or line,
            "way_out": "It may start; if it does not, choose what the sentence names.",
        }
        return note(**told) if kind == "note" else warning(**told)
    return ok()


def _model(subject: Subject) -> Verdict | None:
    tree = _tree(subject)
    return None if tree is None else _asked(lambda _: preflight.check_model(tree))


def _fit(subject: Subject) -> Verdict | None:
    tree = _tree(subject)
    if tree is None:
        return None
    cards, _ = cards_here.read()
    folder = StateFolder(subject.state)
    return _asked(lambda say: preflight.check_fit(tree, folder, cards, say))


def _adapters(subject: Subject) -> Verdict | None:
    tree = _tree(subject)
    if tree is None:
        return None
    folder = StateFolder(subject.state)
    return _asked(lambda say: preflight_adapters.check_adapters(tree, folder, say))


MODEL: Final = Fact("model", "The model", _model, limit_s=4.0)
FIT: Final = Fact("fit", "Whether the models fit", _fit, limit_s=9.0)
ADAPTERS: Final = Fact("adapters", "The adapters", _adapters, limit_s=9.0)


@dataclass(frozen=True, slots=True)
class HubSeen:
    """Models of the hub that are configured, which of them are not on this disk, and why the hub cannot be reached, or nothing."""

    models: tuple[str, ...]
    missing: tuple[str, ...]
    why: str = ""


def _hub(subject: Subject) -> HubSeen:
    tree = _tree(subject)
    from consilium.demo.hub import REPOSITORY, is_here

    named = () if tree is None else models_of(tree.model_dump(include={"model", "executors"}))
    models = tuple(
        name
        for name in named
        if name not in BUILT_IN_MODELS and REPOSITORY.match(name.partition("@")[0])
    )
    if not models:
        return HubSeen((), ())
    folder = StateFolder(subject.state).models
    missing = tuple(name for name in models if not is_here(name, folder))
    return HubSeen(models, missing, _unreachable())


def _unreachable() -> str:
    import httpx

    try:
        httpx.head(environment_value("HF_ENDPOINT") or HUB, timeout=HUB_S)
    except (httpx.HTTPError, httpx.InvalidURL) as err:
        return str(err) or type(err).__name__
    return ""


REACHED: Final = Fact("hub", "The Hugging Face hub", _hub, limit_s=8.0)


def _verdict(fact: Fact[Verdict | None]) -> Callable[[Facts], Verdict]:
    return lambda facts: facts[fact] or ok()


def _is_judged(fact: Fact[Verdict | None]) -> Callable[[Facts], bool]:
    return lambda facts: facts[fact] is not None


def _reached(facts: Facts) -> Verdict:
    hub = facts[REACHED]
    if not hub.why:
        return ok(what="it answers")
    said = {"why": hub.why, "missing": ", ".join(hub.missing) or "nothing is missing here"}
    return failure(**said) if hub.missing else note(**said)


def _others(facts: Facts) -> Verdict:
    tree = _tree(facts.subject)
    share = tree.engine.gpu_memory_utilization if tree is not None else 0.9
    full = [card for card in facts[GPUS].cards if _too_full(card, share)]
    told = ", ".join(
        f"card {card.index} has {card.free_bytes / GIB:.1f} of {card.total_bytes / GIB:.1f} GiB free"
        for card in full
    )
    return warning(told=told, share=f"{share:.0%}") if full else ok()


def _too_full(card: Gpu, share: float) -> bool:
    return bool(card.total_bytes) and card.free_bytes < share * card.total_bytes


ROWS: Final = (
    Row(
        "model",
        "model",
        (MODEL,),
        _verdict(MODEL),
        "{sentence}",
        "{way_out}",
        when=_is_judged(MODEL),
    ),
    Row(
        "hub",
        "Hugging Face hub",
        (REACHED,),
        _reached,
        "it is not reached ({why}); to download: {missing}",
        "Without a network a model must lie here: name a folder, or put it into the cache of huggingface_hub. Behind a mirror set HF_ENDPOINT.",
        "{what}",
        when=lambda facts: bool(facts[REACHED].models),
    ),
    Row(
        "fit",
        "fit of the models",
        (FIT,),
        _verdict(FIT),
        "{sentence}",
        "{way_out}",
        when=_is_judged(FIT),
    ),
    Row(
        "adapters",
        "adapters",
        (ADAPTERS,),
        _verdict(ADAPTERS),
        "{sentence}",
        "'consilium adapters check PATH --base MODEL' shows every rule.",
        when=_is_judged(ADAPTERS),
    ),
    Row(
        "gpu_memory",
        "memory of the GPUs",
        (GPUS, CLUSTER),
        _others,
        "{told}, and an engine takes {share}: other programs hold the rest",
        "End them (nvidia-smi names them), or lower engine.gpu_memory_utilization.",
        when=lambda facts: bool(facts[GPUS].cards) and not facts[CLUSTER].alive,
    ),
)
