"""Logs: short constant events with fields, one line each, with the ids of the request and the trace that they belong to.

    log = logs.get("gateway")
    log.info("turn_done", route="chat", took_ms=212)

JSON in pods, colours on a terminal, key=value in files. Knows how a line looks and where it goes (stderr); one that cannot be written is lost and ends
nothing. Does not know what is worth logging; no prompt text is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from consilium.kernel import trace_context
from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError

Form = Literal["json", "colour", "plain"]

FORMS: Final[dict[str, Form]] = {"json": "json", "colour": "colour", "plain": "plain"}
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
VARIABLE: Final = "CONSILIUM_LOG"
"""Level and form, such as `debug`, `json` or `json,debug`."""

_request_id: ContextVar[str] = ContextVar("consilium_request_id", default="")


def request_id() -> str:
    """Return the id of the request that this task works for, or an empty string."""
    return _request_id.get()


def set_request_id(value: str) -> None:
    """Say which request this task works for, until it ends."""
    _request_id.set(value)


@contextmanager
def request(value: str) -> Iterator[str]:
    """Say which request the block works for."""
    token = _request_id.set(value)
    try:
        yield value
    finally:
        _request_id.reset(token)


def configure(
    service: str,
    *,
    form: Form | None = None,
    level: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set up the logs of this process, once, in its app.py.

    service  name on every line
    form     empty = CONSILIUM_LOG, else json in Kubernetes, colour on a terminal, plain elsewhere
    level    empty = CONSILIUM_LOG, else info
    stream   empty = stderr

    Raises ConsiliumError(config_invalid) for another word in CONSILIUM_LOG.
    """
    named_form, named_level = _from_variable(environment_value(VARIABLE) or "")
    out = stream if stream is not None else sys.stderr
    chosen = form or named_form or _form_of(out)
    structlog.configure(
        processors=[
            _service(service),
            _request,
            structlog.processors.add_log_level,
            *_renderer(chosen),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level or named_level or "info"]),
        logger_factory=structlog.PrintLoggerFactory(_Lossy(out)),  # type: ignore[arg-type]  # it writes and flushes, and no more is asked of it
        cache_logger_on_first_use=False,
    )


def get(room: str = "") -> FilteringBoundLogger:
    """Return a logger; `room` is a field on each of its lines."""
    logger: FilteringBoundLogger = structlog.get_logger(**({"room": room} if room else {}))
    return logger


class _Lossy:
    """Where lines go: one that cannot be written (a full disk, a closed pipe) is lost, and the work that it tells of goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


@dataclass(slots=True)
class StateLog:
    """Logs a dependency when its state changes, not each time it is asked."""

    log: FilteringBoundLogger
    _known: dict[str, bool] = field(default_factory=dict)

    def tell(self, name: str, *, up: bool, **fields: object) -> bool:
        """Note the state of a dependency; returns whether it changed. What is up at first sight is no news."""
        before = self._known.get(name, True)
        self._known[name] = up
        if up and not before:
            self.log.info("dependency_back", name=name, **fields)
        elif not up and before:
            self.log.warning("dependency_down", name=name, **fields)
        return up != before


def _from_variable(text: str) -> tuple[Form | None, str | None]:
    form: Form | None = None
    level: str | None = None
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        if word in LEVELS:
            level = word
        elif word in FORMS:
            form = FORMS[word]
        else:
            raise ConsiliumError(
                "config_invalid",
                key=VARIABLE,
                reason=f"there is no word {word!r}; words are {', '.join((*FORMS, *LEVELS))}",
            )
    return form, level


def _form_of(stream: TextIO) -> Form:
    if environment_value("KUBERNETES_SERVICE_HOST"):
        return "json"
    return "colour" if stream.isatty() and not environment_value("NO_COLOR") else "plain"


def _service(name: str) -> Processor:
    def add(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", name)
        return event

    return add


def _request(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if found := _request_id.get():
        event.setdefault("request_id", found)
    if (trace := trace_context.current()) is not None:
        event.setdefault("trace_id", trace.trace_id)
    return event


def _renderer(form: Form) -> list[Processor]:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if form == "json":
        return [stamp, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if form == "colour":
        return [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(),
        ]
    order = ["timestamp", "level", "service", "event"]
    return [
        stamp,
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True),
    ]
