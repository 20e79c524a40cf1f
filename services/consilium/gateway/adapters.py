"""The adapters of a turn: from what the caller, the role or the text says to a reference that the engine knows.

    decision = await adapters.chosen(decision, body, conversation, notes)

Decided here, in the gateway, from the table that lora_router streams; that room is asked only for a sum that nobody has asked for before. While it is away the last
table counts, and adapters that engines hold go on answering. Knows the order: request, role, trigger, meaning, none. Does not know engines.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from consilium.embedding.client import Kind, Vectors
from consilium.engine.ports import Json
from consilium.gateway import adapter_choice, adapter_rows, meaning, turn_words
from consilium.gateway.adapter_choice import PLAIN, Chosen
from consilium.gateway.decision import Decision
from consilium.gateway.neutral_questions import FOLLOW_UPS, NEUTRAL, SMALL_TALK
from consilium.gateway.new_sums import NewSums
from consilium.gateway.subjects import subjects
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Held
from consilium.lora_router.client import Part

BUDGET_S: Final = 1.0
"""A turn waits so long for the vector of its text; then the plain model answers."""
MOST_CONVERSATIONS: Final = 10_000
WITHOUT_EXAMPLES: Final = 0.07
"""So much less likeness an adapter needs that has no examples, unless it says its own: a domain text alone is less like a question."""
PAUSE_S: Final = 0.25
AGAIN_S: Final = 5.0

_log = logs.get("gateway")


class Table(Protocol):
    """The table `adapters`, as a follower holds it."""

    @property
    def held(self) -> Held:
        """Return epoch, version and rows."""

    @property
    def age_s(self) -> float | None:
        """Return seconds since the room was heard, or None."""


class Embedder(Protocol):
    """What makes vectors."""

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Raises ConsiliumError."""


class Router(Protocol):
    """The room of adapters, as far as a turn needs it."""

    def compose(self, parts: Sequence[str]) -> Awaitable[str]:
        """Return the reference of a sum."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Who would answer a text, and what was looked at."""

    chosen: Chosen
    candidates: tuple[meaning.Candidate, ...] = ()
    took_ms: float = 0.0


class Adapters:
    """What this gateway replica knows of adapters.

    table     None where the cluster has no such room
    embedder  asked only when an adapter says what it is for
    router    asked for new sums
    """

    def __init__(
        self, table: Table | None, embedder: Embedder, router: Router | None, clock: Clock
    ) -> None:
        self._table, self._embedder, self._router, self._clock = table, embedder, router, clock
        self._held: Held | None = None
        # Without such a room every name is unknown; with one that was not heard yet, nobody can tell.
        self._known = adapter_rows.Known(heard=table is None)
        self._rules = meaning.Rules()
        self._prototypes = meaning.Prototypes.of({})
        self._made: dict[tuple[str, Kind], Any] = {}
        self._told: Mapping[str, Sequence[tuple[str, Kind]]] = {}
        self._conversations: OrderedDict[str, str] = OrderedDict()
        self._new_sums = NewSums(clock)

    @property
    def known(self) -> adapter_rows.Known:
        """Return what the table says now."""
        table = self._table
        if table is None:
            return self._known
        held = table.held
        if held is not self._held or self._known.heard != (table.age_s is not None):
            self._held = held
            self._known = adapter_rows.read(
                held.rows, heard=table.age_s is not None, before=self._known
            )
            self._rules = _rules(held.rows, self._known)
            self._new_sums.heard(held.rows)
        return self._known

    async def chosen(
        self,
        decision: Decision,
        body: Json,
        conversation: str,
        notes: list[str],
        asker: str = "",
    ) -> Decision:
        """Return the decision with its adapter, and with those executors only that can answer with it.

        asker  id of the key that asks

        Raises ConsiliumError: invalid_request, adapter_unknown, adapter_refused, adapter_down, adapter_sums_full, rate_limited (too many new sums).
        """
        chosen = self._named(decision, body)
        if chosen is None:
            chosen = await self._found(body, conversation, notes)
        if chosen.is_plain:
            return replace(decision, adapter_why=chosen.why)
        if chosen.parts and not chosen.reference:
            try:
                chosen = await self._composed(chosen, asker)
            except ConsiliumError as error:
                if not _is_free(decision, chosen):
                    raise
                why = error.public()
                notes.append(f"{', '.join(chosen.names)} could not be added up: {why}")
                return replace(decision, adapter_why=why)
        return _answered_by(decision, chosen, notes)

    def _named(self, decision: Decision, body: Json) -> Chosen | None:
        """Return what the request or the role says; None where neither does and the text may choose."""
        wish = body.get("consilium")
        asked = wish.get("adapters") if isinstance(wish, dict) else None
        if asked is not None:
            parts = adapter_choice.asked_for(asked, "consilium.adapters")
            return adapter_choice.resolve(
                parts, self.known, by="request", why="the request names it"
            )
        target = decision.target
        if target.kind == "adapter":
            parts = adapter_choice.asked_for(target.name, "model")
            return adapter_choice.resolve(parts, self.known, by="request", why="the model names it")
        frame = decision.frame
        if frame is not None and frame.adapters:
            try:
                return adapter_choice.resolve(
                    adapter_choice.asked_for(list(frame.adapters), f"roles.{frame.role}.adapters"),
                    self.known,
                    by="role",
                    why=f"role {frame.role} has it",
                )
            except ConsiliumError as error:
                if frame.adapters_optional:
                    why = f"{', '.join(frame.adapters)}: {error.public()}"
                    return replace(PLAIN, why=why)
                raise
        return None if target.kind == "auto" and frame is None else PLAIN

    async def _found(self, body: Json, conversation: str, notes: list[str]) -> Chosen:
        """Return what the text itself says: a trigger, or its meaning."""
        known = self.known
        if not known.rows:
            return PLAIN
        text = turn_words.text(body)
        try:
            called = adapter_choice.triggered(text, known)
        except ConsiliumError as error:
            notes.append(f"an adapter was called and could not answer: {error}")
            return PLAIN
        if not called.is_plain or not self._prototypes.names or not text.strip():
            return called
        try:
            async with asyncio.timeout(BUDGET_S):
                vectors = await self._vectors([text], "query")
        except (ConsiliumError, TimeoutError) as error:
            notes.append(f"no adapter was looked for: {getattr(error, 'code', 'deadline')}")
            return PLAIN
        return self._meant(text, vectors[0], conversation, notes)

    def _meant(self, text: str, vector: Any, conversation: str, notes: list[str]) -> Chosen:
        present = self._conversations.get(conversation) if conversation else None
        words = len(text.split())
        found = meaning.nearest(
            vector,
            self._prototypes,
            self._rules,
            present=present,
            words=words,
            brief=meaning.brief_words(text),
            most=2,
        )
        if conversation:
            self._conversations[conversation] = found.name
            self._conversations.move_to_end(conversation)
            while len(self._conversations) > MOST_CONVERSATIONS:
                self._conversations.popitem(last=False)
        if not found.name:
            return replace(PLAIN, why=found.why)
        try:
            parts = (Part(found.name),)
            return adapter_choice.resolve(parts, self.known, by="meaning", why=found.why)
        except ConsiliumError as error:
            notes.append(f"{found.name} would have answered and cannot: {error}")
            return PLAIN

    async def _composed(self, chosen: Chosen, asker: str) -> Chosen:
        """Have the sum made. Raises ConsiliumError."""
        if self._router is None:
            raise adapter_choice.down(chosen.names)
        told = [f"{reference}@{weight:.6f}" for reference, weight in chosen.parts]
        # Any weights can be asked for in a request, and each sum costs seconds and bytes.
        is_any = chosen.by == "request"
        try:
            with self._new_sums.made(asker, told) if is_any else nullcontext():
                reference = await self._router.compose(told)
        except ConsiliumError as error:
            if error.code in {"upstream_down", "deadline"}:
                raise adapter_choice.down(chosen.names, error.detail) from error
            raise
        return replace(chosen, reference=reference)

    async def _vectors(self, texts: Sequence[str], kind: Kind) -> Sequence[meaning.Vectors]:
        """Return the vector of each text, of its beginning and end where it is long. Raises ConsiliumError."""
        try:
            cut = [meaning.looked_at(text) for text in texts]
            return list((await self._embedder.embed(cut, kind)).values)
        except ConsiliumError as error:
            if error.code != "invalid_request":
                raise
        # Some scripts take more than half a token for a character, and one such text must not keep the others from having prototypes.
        cut = [meaning.looked_at(text, meaning.SURELY_TAKEN) for text in texts]
        return list((await self._embedder.embed(cut, kind)).values)

    async def explain(self, text: str) -> Explained:
        """Return who would answer a text that says `auto`. Raises ConsiliumError."""
        began = time.perf_counter()
        called = adapter_choice.triggered(text, self.known)
        if not called.is_plain:
            return Explained(called, (), _ms(began))
        if not self._prototypes.names:
            return Explained(replace(PLAIN, why=meaning.NOTHING_SAID), (), _ms(began))
        vectors = await self._vectors([text], "query")
        began = time.perf_counter()
        found = meaning.nearest(
            vectors[0], self._prototypes, self._rules, brief=meaning.brief_words(text)
        )
        chosen = replace(PLAIN, why=found.why)
        if found.name:
            parts = (Part(found.name),)
            chosen = adapter_choice.resolve(parts, self.known, by="meaning", why=found.why)
        return Explained(chosen, found.candidates, _ms(began))

    async def run(self) -> None:
        """Keep the prototypes as the table says, until cancelled. Nothing is embedded while no adapter says what it is for."""
        if self._table is None:
            return
        seen: object = None
        while True:
            known = self.known
            if known is not seen:
                try:
                    await self._renew(known)
                    seen = known
                except ConsiliumError as error:
                    _log.warning("prototypes_not_made", code=error.code, detail=str(error))
                    await self._clock.sleep(AGAIN_S)
                    continue
            await self._clock.sleep(PAUSE_S)

    async def _renew(self, known: adapter_rows.Known) -> None:
        """Make the prototypes of every adapter that has a domain or examples. Texts that were embedded before are not embedded again, and where none has changed nothing is made."""
        told = {row.name: texts_of(row) for row in known.with_meaning}
        if told == self._told:
            return
        wanted = [pair for pairs in told.values() for pair in pairs]
        if not wanted:
            self._made.clear()
            self._prototypes, self._told = meaning.Prototypes.of({}), told
            return
        wanted += [(text, "query") for text in (*NEUTRAL, *FOLLOW_UPS, *SMALL_TALK)]
        for kind in ("passage", "query"):
            missing = [
                text
                for text, k in dict.fromkeys(wanted)
                if k == kind and (text, k) not in self._made
            ]
            for at in range(0, len(missing), 32):
                batch = missing[at : at + 32]
                made = await self._vectors(batch, kind)
                self._made.update(zip(((text, kind) for text in batch), made, strict=True))
        self._made = {pair: self._made[pair] for pair in wanted}
        self._prototypes = await asyncio.to_thread(
            meaning.Prototypes.of,
            {
                name: (
                    meaning.stacked([self._made[pair] for pair in pairs]),
                    [text for text, _ in pairs],
                )
                for name, pairs in told.items()
            },
            meaning.stacked([self._made[text, "query"] for text in NEUTRAL]),
            meaning.stacked([self._made[text, "query"] for text in FOLLOW_UPS]),
            meaning.stacked([self._made[text, "query"] for text in SMALL_TALK]),
        )
        self._told = told


def texts_of(row: adapter_rows.Row) -> list[tuple[str, Kind]]:
    """Return the texts that an adapter's prototypes are made of: its domain as what is looked for, the subjects that it lists and its examples as questions."""
    domain: list[tuple[str, Kind]] = [(row.domain, "passage")] if row.domain else []
    return [*domain, *((text, "query") for text in (*subjects(row.domain), *row.examples))]


def _rules(rows: Mapping[str, Mapping[str, Any]], known: adapter_rows.Known) -> meaning.Rules:
    told: Mapping[str, Any] = next((raw for raw in rows.values() if raw.get("kind") == "rules"), {})
    default = meaning.Rules()
    threshold = float(told.get("threshold", default.threshold))
    own = {
        row.name: max(0.0, threshold - WITHOUT_EXAMPLES)
        for row in known.rows.values()
        if not row.examples
    }
    own |= {row.name: row.threshold for row in known.rows.values() if row.threshold is not None}
    return meaning.Rules(
        threshold,
        float(told.get("margin", default.margin)),
        float(told.get("sticky_margin", default.sticky_margin)),
        own,
    )


def _answered_by(decision: Decision, chosen: Chosen, notes: list[str]) -> Decision:
    """Return the decision with its adapter and the executors that can answer with it.

    Raises ConsiliumError(adapter_refused) where the executor that was meant cannot, and nothing lets another one answer.
    """
    first = decision.executors[0]
    why_not = chosen.why_not(first)
    able = [name for name in decision.executors if not chosen.why_not(name)]
    optional = _is_optional(decision)
    if why_not and not able and chosen.fits is not None and decision.executor_is_free:
        able = sorted(name for name, why in chosen.fits.items() if not why)[:1]
    if why_not and not able:
        if _is_free(decision, chosen):
            notes.append(f"{', '.join(chosen.names)} cannot answer on {first}: {why_not}")
            return replace(decision, adapter_why=why_not)
        raise ConsiliumError(
            "adapter_refused",
            reason=f"{', '.join(chosen.names)} cannot answer on {first}: {why_not}",
        )
    executors = tuple(decision.executors if optional else able)
    return replace(
        decision,
        executors=executors,
        adapter=chosen.reference,
        adapter_is_free=_is_free(decision, chosen),
        adapters=chosen.names,
        adapter_why=f"{chosen.by}: {chosen.why}" if chosen.why else chosen.by,
        plain_on={name: why for name in executors if (why := chosen.why_not(name))},
    )


def _is_optional(decision: Decision) -> bool:
    return decision.frame is not None and decision.frame.adapters_optional


def _is_free(decision: Decision, chosen: Chosen) -> bool:
    """Say whether nobody has insisted on an adapter."""
    return _is_optional(decision) or chosen.by in {"trigger", "meaning"}


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
