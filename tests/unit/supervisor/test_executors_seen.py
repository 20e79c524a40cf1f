"""What the gateway's /ready says of the executors, and why the core is not ready."""

from __future__ import annotations

import json

import pytest

from consilium.cli.status import ELSEWHERE_S
from consilium.gateway.executor_states import WAIT_S
from consilium.supervisor.executors_seen import executors_seen, read
from consilium.supervisor.outside_look import LOOK_S
from consilium.supervisor.silence import SHOWN_S


def said(ready: bool = True, silent: float = 0.0, **states: str) -> bytes:
    return json.dumps(
        {"ready": ready, "executors": states, **({"silent_s": {"core": silent}} if silent else {})}
    ).encode()


@pytest.mark.parametrize(
    ("body", "executors", "why", "heard"),
    [
        (said(core="ready"), {"core": "ready"}, "", True),
        (said(core="ready", silent=SHOWN_S - 0.1), {"core": "ready"}, "", True),
        (said(core="ready", hands="down"), {"core": "ready", "hands": "down"}, "", True),
        (said(core="ready", silent=SHOWN_S), {"core": "silent"}, "its engine does not answer", False),
        (said(ready=False, core="starting"), {"core": "starting"}, "the core is starting: its engine gives no token", True),
        (said(ready=False, core="ready"), {"core": "ready"}, "the gateway is being stopped", True),
        (b"<html>", {"core": "unknown"}, "the gateway cannot say how the core is", True),
        (b'{"error": {}}', {"core": "unknown"}, "the gateway cannot say how the core is", True),
    ],
)  # fmt: skip
def test_ready_is_read(body: bytes, executors: dict[str, str], why: str, *, heard: bool) -> None:
    seen = read(body)
    assert (dict(seen.executors), seen.why, seen.heard) == (executors, why, heard)


def test_where_nobody_listens_nothing_is_known() -> None:
    seen = executors_seen("http://127.0.0.1:1", 0.5)
    assert (dict(seen.executors), seen.heard) == ({"core": "unknown"}, False)


def test_ready_answers_before_those_who_ask_give_up():
    """A remote executor that hangs would make all of them say that the gateway does not answer."""
    assert WAIT_S + 0.1 < LOOK_S < ELSEWHERE_S
