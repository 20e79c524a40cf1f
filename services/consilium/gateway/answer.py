"""An answer that has begun: its bytes, passed through as they come; the receipt joins the last of them.

Knows bytes and when an answer is over. Does not know which executor should have answered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from consilium.engine.client import Head, Turn
from consilium.gateway import closing, receipt_bytes
from consilium.gateway.cast import Ask, Cast, Course
from consilium.gateway.decision import GENERATING, Decision
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.json_bytes import dumps
from consilium.kernel.unread import is_unread

_log = logs.get("gateway")


class Answer:
    """Iterate once for its bytes, then it ends itself; `aclose` ends it early and stops the engine."""

    def __init__(
        self, cast: Cast, ask: Ask, decision: Decision, course: Course, turn: Turn
    ) -> None:
        self._cast, self._ask, self._turn = cast, ask, turn
        self._decision, self._course = decision, course
        self._first: float | None = None
        self._status = turn.head.status
        self._ended = False
        self._end = ""
        self._chunks = 0
        self.last = b""

    @property
    def head(self) -> Head:
        """Return status, media type and who answers."""
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

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. A stream that breaks off ends with an error event; a document that does raises ConsiliumError."""
        whole: list[bytes] = []
        try:
            async for chunk in self._turn:
                self._chunks += 1
                if self._first is None:
                    self._first = self._cast.clock.monotonic()
                if not self.head.stream:
                    whole.append(chunk)
                elif self._turn.tail is None:
                    yield chunk
                else:
                    yield self._with_receipt(chunk)
            if not self.head.stream:
                yield self._with_receipt(b"".join(whole))
        except ConsiliumError as error:
            self._status = error.row.http
            if not self.head.stream:
                error.fields["receipt"] = self.receipt_id
                raise
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
        self._cast.gate.leave(self.executor, seconds)
        if self._turn.tail is None and self._status == self.head.status and self.head.stream:
            self._status = closing.GONE
        closing.ended(self._cast, self._ask, self._course, status=self._status, said=self._said())
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

    def _said(self) -> closing.Said:
        return closing.Said(self.head, self._turn.tail, self._first, self._chunks)

    def _with_receipt(self, body: bytes) -> bytes:
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
        kind = {"chat": b"chat.completion.chunk", "completions": b"text_completion"}.get(
            self._ask.route, b"consilium.receipt"
        )
        spare = (
            b'data: {"id":"'
            + self.receipt_id.encode()
            + b'","object":"'
            + kind
            + b'","choices":[],"consilium":'
            + note
            + b"}\n\n"
        )
        return receipt_bytes.into_stream(body, note, spare)
