import errno
import io
import json
import os

import pytest
import structlog

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError


@pytest.fixture(autouse=True)
def _reset(monkeypatch):
    for name in ("CONSILIUM_LOG", "KUBERNETES_SERVICE_HOST", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield
    structlog.reset_defaults()


def written(**options):
    stream = io.StringIO()
    logs.configure("gateway", stream=stream, **options)
    with logs.request("req-1"):
        logs.get("turn").info("turn_done", took_ms=212)
    logs.get().debug("details")
    return stream.getvalue()


def test_a_file_gets_key_and_value():
    line = written()
    assert "level=info service=gateway event=turn_done" in line
    assert "took_ms=212" in line
    assert "request_id=req-1" in line
    assert "details" not in line


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EPIPE])
def test_a_full_disk_or_a_closed_pipe_costs_the_line_and_not_the_work(reason):
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(reason, os.strerror(reason))

        def flush(self):
            self.write("")

    logs.configure("gateway", stream=Full())
    logs.get().info("turn_done")


def test_a_pod_gets_json(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    line = json.loads(written())
    assert {
        "event": "turn_done",
        "service": "gateway",
        "room": "turn",
        "request_id": "req-1",
        "took_ms": 212,
        "level": "info",
    }.items() <= line.items()


def test_the_variable_sets_form_and_level(monkeypatch):
    monkeypatch.setenv("CONSILIUM_LOG", "json, debug")
    first, second = map(json.loads, written().splitlines())
    assert second["event"] == "details"
    assert "request_id" not in second, "the request is over"
    assert first["event"] == "turn_done"


def test_another_word_in_the_variable_is_told(monkeypatch):
    monkeypatch.setenv("CONSILIUM_LOG", "verbose")
    with pytest.raises(ConsiliumError, match="CONSILIUM_LOG: there is no word 'verbose'"):
        logs.configure("gateway")


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for wanted in (True, False):
        stream = Terminal()
        logs.configure("gateway", stream=stream)
        logs.get().info("hello")
        assert ("\x1b[" in stream.getvalue()) == wanted
        monkeypatch.setenv("NO_COLOR", "1")


def test_a_dependency_is_logged_when_its_state_changes():
    with structlog.testing.capture_logs() as lines:
        states = logs.StateLog(logs.get())
        changes = [states.tell("redis", up=up) for up in (True, False, False, False, True, True)]
    assert changes == [False, True, False, False, True, False]
    assert [line["event"] for line in lines] == ["dependency_down", "dependency_back"]
