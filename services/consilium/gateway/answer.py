"""An answer that an executor has accepted: its bytes, passed through as they come; the receipt joins the last of them.

Between acceptance and the first byte of a stream lies the reading of the prompt. Until that byte another executor may still step in.
Knows bytes and when an answer is over. Does not know which executor comes next (fallback.py).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from consilium.engine.client import Head, Turn
from consilium.gateway import closing, receipt_bytes
from consilium.gateway.decision import GENERATING
from consilium.gateway.fallback import Executors
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.json_bytes import dumps
from consilium.kernel.openai_errors import told
from consilium.kernel.unread import is_unread

_log = logs.get("gateway")


class Answer:
    """Iterate once for its bytes, then it ends itself; `aclose` ends it early and stops the engine."""

    def __init__(self, executors: Executors, turn: Turn) -> None:
        """Take who may answer, and the turn of the one that has accepted."""
        self._cast, self._ask = executors.cast, executors.ask
        self._decision, self._course = executors.decision, executors.course
        self._executors, self._turn = executors, turn
        self._bytes = aiter(turn)
        self._ahead = b""
        self._first: float | None = None
        self._status = turn.head.status
        self._code = ""
        self._has_place = True
        self._ended = False
        self._end = ""
        self._chunks = 0
        self.last = b""

    @property
    def head(self) -> Head:
        """Return status, media type and who answers. Before the first byte of a stream another may still take over who answers, and nothing else."""
        return self._turn.head

    @property
    def receipt_id(self) -> str:
        """Return the id of the answer and its receipt."""
        return self._course.receipt_id

    @property
    def executor(self) -> str:
        """Return the executor that answers."""
        return self._course.executor

    @property
    def role(self) -> str:
        """Return the role that answers, or nothing."""
        return self._decision.role or ""

    @property
    def profile(self) -> str:
        """Return the profile that was chosen, or nothing."""
        return self._decision.profile

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens of the answer; empty before its end."""
        return closing.usage_of(self._turn.tail)

    @property
    def finish_reason(self) -> str:
        """Return why the model stopped; empty before the end, or where it did not say."""
        tail = self._turn.tail
        return (tail.finish_reason or "") if tail is not None else ""

    async def begin(self) -> None:
        """Return when the first byte of a stream is there, by whichever executor. Raises ConsiliumError if there will be none: the turn is over then."""
        try:
            while self._first is None:
                try:
                    self._ahead = await anext(self._bytes, b"")
                    self._first = self._cast.clock.monotonic()
                    self._chunks = 1
                except ConsiliumError as error:
                    if not self._executors.follow(self.executor, error):
                        raise
                    await self._take_next()
        except ConsiliumError as error:
            self._status, self._code = error.row.http, error.code
            error.fields["receipt"] = self.receipt_id
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. A stream that breaks off ends with an error event; a document that does raises ConsiliumError."""
        if not self.head.stream:
            yield await self._document()
            return
        try:
            if self._first is None:
                await self.begin()
            if self._ahead:
                yield self._ahead if self._turn.tail is None else self._with_receipt(self._ahead)
            before = self._ahead
            async for chunk in self._bytes:
                self._chunks += 1
                yield chunk if self._turn.tail is None else self._with_receipt(chunk, before)
                before = chunk
        except ConsiliumError as error:
            self._status = error.row.http
            yield b"data: " + dumps(to_openai(error)) + b"\n\n" + receipt_bytes.DONE + b"\n\n"
        finally:
            await self.aclose()

    def stopped(self, error: ConsiliumError) -> None:
        """Say why this answer could not be sent to its end, before it is closed."""
        if is_unread(error) and not self._ended:
            seconds = error.fields["seconds"]
            self._course.notes.append(f"ended: the caller read nothing for {seconds} s")
            self._end = "unread"

    async def aclose(self) -> None:
        """End the turn: stop the engine if it still runs, give the place back, keep the receipt. Safe to call twice."""
        if self._ended:
            return
        self._ended = True
        seconds = self._cast.clock.monotonic() - self._course.began
        self._leave_place()
        if self._turn.tail is None and self._status == self.head.status and self.head.stream:
            self._status = closing.GONE
        closing.ended(
            self._cast,
            self._ask,
            self._course,
            status=self._status,
            said=self._said(),
            code=self._code,
        )
        _log.info(
            "turn_done",
            route=self._ask.route,
            status=self._status,
            executor=self.executor,
            receipt=self.receipt_id,
            took_ms=round(seconds * 1000),
            **({"ended_by": self._end} if self._end else {}),
        )
        await self._turn.aclose()

    async def _document(self) -> bytes:
        whole: list[bytes] = []
        try:
            async for chunk in self._bytes:
                if self._first is None:
                    self._first = self._cast.clock.monotonic()
                whole.append(chunk)
            self._chunks = len(whole)
            return self._with_receipt(b"".join(whole))
        except ConsiliumError as error:
            self._status = error.row.http
            error.fields["receipt"] = self.receipt_id
            raise
        finally:
            await self.aclose()

    async def _take_next(self) -> None:
        """Go on with the next executor that accepts, in place of the one that has failed."""
        failed = self.executor
        self._leave_place()
        self._cast.meter.inflight(failed)  # at the turn's end only who answered is counted anew
        await self._turn.aclose()
        self._turn = await self._executors.next()
        self._has_place = True
        self._bytes = aiter(self._turn)
        head = self._turn.head
        if not head.stream:  # it refuses: its context is shorter, or a setting is not to its taste
            said = json.loads(b"".join([chunk async for chunk in self._bytes]))
            raise told(said, head.status, retry_after_s=head.retry_after)

    def _leave_place(self) -> None:
        if self._has_place:
            self._has_place = False
            seconds = self._cast.clock.monotonic() - self._course.began
            self._cast.gate.leave(self.executor, seconds, self._ask.who)

    def _said(self) -> closing.Said:
        return closing.Said(self.head, self._turn.tail, self._first, self._chunks)

    def _with_receipt(self, body: bytes, before: bytes = b"") -> bytes:
        self.last = body
        if (
            not self._decision.with_receipt
            or self.head.status != closing.HTTP_OK
            or self._ask.route not in GENERATING
        ):
            return body
        known = closing.receipt(
            self._cast, self._ask, self._course, status=self._status, said=self._said()
        )
        note = dumps({"receipt": known.as_dict()})
        if not self.head.stream:
            return receipt_bytes.into_document(body, note)
        spare = receipt_bytes.event_like(before, self._ask.route, note)
        return receipt_bytes.into_stream(body, note, spare)
