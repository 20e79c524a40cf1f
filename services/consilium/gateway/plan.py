"""What is decided for a turn before any engine is asked: who answers, in which frame and profile, and who instead if it is down.

Pure: a request and the configuration in, a plan out. Does not know quotas, places or receipts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from consilium.engine.client import CORE, EngineClient, ExecutorInfo
from consilium.engine.ports import Json, Route
from consilium.gateway import admission, models, prompt, roles
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.profiles import AUTO, apply, choose

GENERATING: Final = frozenset({"chat", "completions", "responses"})


@dataclass(slots=True)
class Plan:
    """What was decided. `executor` and `fallback` change once, when the fallback has to answer; `sent` is when the call went out, monotonic seconds."""

    target: models.Target
    executor: str
    body: Json
    prefix_key: str
    role: str | None = None
    fallback: str | None = None
    profile: str = ""
    profile_why: str = ""
    with_receipt: bool = True
    context: int | None = None
    sent: float = 0.0
    notes: list[str] = field(default_factory=list)


def decide(
    given: Json,
    route: Route,
    *,
    engine: EngineClient,
    frames: Mapping[str, roles.Frame],
    profiles: Mapping[str, Profile],
    limits: Gateway,
) -> Plan:
    """Return the plan of a request. Raises ConsiliumError: invalid_request, not_supported, model_unknown, adapter_unknown."""
    admission.check_shape(given, limits, route)
    wish = given.get("consilium")
    wish = wish if isinstance(wish, dict) else {}
    infos = {info.name: info for info in engine.executors()}
    asked = given.get("model")
    target = models.resolve(
        asked if isinstance(asked, str) else None,
        roles=frames,
        executors={name: info.model for name, info in infos.items()},
    )
    role = wish.get("role") or target.role
    if role is not None and role not in frames:
        target = models.resolve(f"role/{role}", roles=frames, executors={})
    frame = frames.get(str(role)) if role is not None else None
    body = {key: value for key, value in given.items() if key != "consilium"}
    plan = Plan(
        target,
        CORE,
        body,
        "",
        role=frame.role if frame else None,
        with_receipt=wish.get("receipt") is not False,
    )
    settings: Profile | None = None
    if route in GENERATING:
        # Only who says auto, here or in the role, is chosen for: a request that names a model is answered as the bare engine would.
        named = frame.profile if frame else AUTO if asked == models.AUTO else None
        chosen = choose(wish.get("profile"), named, prompt.text(body), profiles=profiles)
        plan.profile, plan.profile_why, settings = chosen.name, chosen.why, chosen.profile
        plan.body = apply(settings, body, route)
        plan.context = settings.context if settings else None
    if frame is not None:
        plan.body = prompt.framed(frame, plan.body, route)
    plan.executor = str(
        wish.get("executor")
        or target.executor
        or (frame.executor if frame else None)
        or (settings.executor if settings else None)
        or CORE
    )
    if plan.executor not in infos:
        models.resolve(
            f"executor/{plan.executor}",
            roles=(),
            executors={name: info.model for name, info in infos.items()},
        )
    plan.fallback = _fallback(plan.executor, frame, infos)
    plan.prefix_key = prompt.prefix_key(plan.role, plan.body)
    return plan


def _fallback(
    executor: str, frame: roles.Frame | None, infos: Mapping[str, ExecutorInfo]
) -> str | None:
    own = frame.fallback if frame is not None else None
    chosen = own or infos[executor].fallback
    return chosen if chosen in infos and chosen != executor else None
