"""What is decided for a turn before any engine is asked: who answers, in which frame and profile, and who instead if it is down.

Pure, and made from tables that the gateway holds anyway: no call. A request and the configuration in, a frozen decision out. Does not know quotas, places
or receipts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from consilium.engine.client import CORE, EngineClient, ExecutorInfo
from consilium.engine.ports import Json, Route
from consilium.gateway import body_checks, models, roles, turn_words
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.profiles import AUTO, choose

GENERATING: Final = frozenset({"chat", "completions", "responses"})


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers, and how.

    executors    in the order in which they are tried: the one that was meant, and its fallback
    frame        the role's, or None
    settings     the profile, None where a route has none
    profile_why  the rule that chose it
    adapters     what the receipt tells of the adapters that answer: each with its version and weight; empty = the plain model
    adapter      reference that the engine is told
    adapter_why  who chose it, or why none was chosen
    plain_on     executors that answer without it, because the role lets them -> why
    adapter_is_free  nobody has insisted on the adapter: where it cannot answer after all, the plain model does
    executor_is_free  nobody has named the executor: another one may answer where the adapter fits that one only
    """

    target: models.Target
    executors: tuple[str, ...]
    frame: roles.Frame | None = None
    profile: str = ""
    profile_why: str = ""
    settings: Profile | None = None
    with_receipt: bool = True
    adapters: tuple[str, ...] = ()
    adapter: str = ""
    adapter_why: str = ""
    plain_on: Mapping[str, str] = field(default_factory=dict)
    adapter_is_free: bool = False
    executor_is_free: bool = False

    @property
    def role(self) -> str | None:
        """Return the role that answers, or None."""
        return self.frame.role if self.frame is not None else None

    def adapters_on(self, executor: str) -> tuple[str, ...]:
        """Return what the receipt tells of the adapters where this executor answers; empty = the plain model."""
        return () if executor in self.plain_on else self.adapters


def decide(
    given: Json,
    route: Route,
    *,
    engine: EngineClient,
    frames: Mapping[str, roles.Frame],
    profiles: Mapping[str, Profile],
    limits: Gateway,
    embeds: Sequence[str] = (),
) -> Decision:
    """Return the decision for a request. `embeds` are the names of the model behind /v1/embeddings.

    Raises ConsiliumError: invalid_request, not_supported, model_unknown, adapter_unknown.
    """
    body_checks.check_shape(given, limits, route)
    asked = given.get("consilium")
    wish = asked if isinstance(asked, dict) else {}
    infos = {info.name: info for info in engine.executors()}
    target, frame = _addressed(given.get("model"), wish.get("role"), frames, infos, embeds)
    profile, why, settings = "", "", None
    if route in GENERATING:
        # Only who says auto, here or in the role, is chosen for: a request that names a model is answered as the bare engine would.
        named = frame.profile if frame else AUTO if given.get("model") == models.AUTO else None
        chosen = choose(wish.get("profile"), named, turn_words.text(given), profiles=profiles)
        profile, why, settings = chosen.name, chosen.why, chosen.profile
    wished = (
        wish.get("executor"),
        target.executor,
        frame.executor if frame else None,
        settings.executor if settings else None,
    )
    executor = next((str(name) for name in wished if name), CORE)
    if executor not in infos:
        served = {name: info.model for name, info in infos.items()}
        models.resolve(f"executor/{executor}", roles=(), executors=served)
    if f"executor/{executor}" in embeds:
        raise models.makes_vectors(executor)
    return Decision(
        target,
        _in_order(executor, frame, infos),
        frame,
        profile,
        why,
        settings,
        with_receipt=wish.get("receipt") is not False,
        executor_is_free=not any(wished),
    )


def _addressed(
    model: object,
    role: object,
    frames: Mapping[str, roles.Frame],
    infos: Mapping[str, ExecutorInfo],
    embeds: Sequence[str],
) -> tuple[models.Target, roles.Frame | None]:
    """Return what the model name means, and the frame of the role that it or the request names."""
    served = {name: info.model for name, info in infos.items()}
    name = model if isinstance(model, str) else None
    target = models.resolve(name, roles=frames, executors=served, embeds=embeds)
    wanted = role or target.role
    if wanted is None:
        return target, None
    if wanted not in frames:
        models.resolve(f"role/{wanted}", roles=frames, executors={})
    return target, frames[str(wanted)]


def _in_order(
    executor: str, frame: roles.Frame | None, infos: Mapping[str, ExecutorInfo]
) -> tuple[str, ...]:
    own = frame.fallback if frame is not None else None
    spare = own or infos[executor].fallback
    if spare is None or spare not in infos or spare == executor:
        return (executor,)
    return (executor, spare)
