"""The client over engines of this process: heads, chunks, tails, closing, and errors in the words of the catalogue."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from tests.waiting import until_true

from consilium.engine import wire
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.backends.serve import ServeEngine, translate
from consilium.engine.client import EngineClient, open_executors
from consilium.engine.config import EngineView
from consilium.engine.frame_socket import TAKEN
from consilium.engine.ports import Call, ExecutorInfo, Head, State, Tail
from consilium.kernel.errors import ConsiliumError


def chat(text: str, *, deadline: float | None = None, stream: bool = True) -> Call:
    return Call(
        "r1",
        "chat",
        {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": stream},
        deadline=deadline,
    )


async def started(engine: EchoEngine) -> EngineClient:
    await engine.start()
    return EngineClient({"core": engine})


async def test_a_turn_has_a_head_then_chunks_then_a_tail() -> None:
    client = await started(EchoEngine())
    turn = await client.open("core", chat("one two"))
    assert turn.head.status == 200
    assert turn.head.stream
    assert turn.tail is None
    body = b"".join([chunk async for chunk in turn])
    assert body.endswith(wire.DONE)
    assert turn.tail is not None
    assert turn.tail.usage.completion_tokens == 2
    assert turn.tail.finish_reason == "stop"


async def test_a_document_is_one_chunk() -> None:
    client = await started(EchoEngine())
    turn = await client.open("core", chat("one", stream=False))
    assert not turn.head.stream
    assert len([chunk async for chunk in turn]) == 1


async def test_closing_a_turn_stops_the_engine() -> None:
    engine = EchoEngine()
    client = await started(engine)
    async with await client.open("core", chat("a b !wait c")):
        assert engine.running == {"r1"}
    assert engine.running == set()
    assert engine.aborted == ["r1"]


async def test_a_reader_that_stops_reading_keeps_no_place_in_the_engine_after_the_deadline() -> (
    None
):
    engine = EchoEngine()
    client = await started(engine)
    turn = await client.open("core", chat("a b c d", deadline=time.time() + 2))
    assert engine.running == {"r1"}
    await until_true(lambda: not engine.running)  # nobody reads, so nobody is told
    with pytest.raises(ConsiliumError, match="deadline"):
        [chunk async for chunk in turn]
    await turn.aclose()
    assert engine.aborted == ["r1"]


async def test_an_unknown_executor_names_the_nearest() -> None:
    client = await started(EchoEngine())
    with pytest.raises(ConsiliumError) as caught:
        await client.open("cor", chat("x"))
    assert caught.value.code == "model_unknown"
    assert "executor/core" in caught.value.public()


async def test_an_error_before_the_head_is_raised() -> None:
    client = await started(EchoEngine())
    with pytest.raises(ConsiliumError) as caught:
        await client.open("core", chat("!fail"))
    assert caught.value.code == "internal"


async def test_the_deadline_ends_a_turn() -> None:
    engine = EchoEngine()
    client = await started(engine)
    with pytest.raises(ConsiliumError) as caught:
        await client.open("core", chat("!wait", deadline=time.time() + 2, stream=False))
    assert caught.value.code == "deadline"
    assert engine.aborted == ["r1"]


async def test_a_deadline_that_has_passed_ends_it_at_once() -> None:
    client = await started(EchoEngine())
    with pytest.raises(ConsiliumError, match="deadline"):
        await client.open("core", chat("!wait", deadline=1.0, stream=False))


async def test_probe_says_the_state() -> None:
    engine = EchoEngine()
    client = EngineClient({"core": engine})
    assert await client.probe("core") is State.DOWN
    await engine.start()
    assert await client.probe("core") is State.READY
    assert [info.name for info in client.executors()] == ["core"]


def test_a_configuration_names_its_executors() -> None:
    view = EngineView.model_validate(
        {
            "topology": {"kind": "hybrid"},
            "executors": {
                "small": {"model": "tiny", "fallback": "core"},
                "far": {"kind": "remote", "url": "http://x/v1", "model": "m", "max_in_flight": 3},
            },
        }
    )
    found = {info.name: info for info in open_executors(view).executors()}
    assert list(found) == ["core", "small", "far"]
    assert (found["small"].kind, found["small"].fallback) == ("engine", "core")
    assert (found["far"].kind, found["far"].model, found["far"].places) == ("remote", "m", 3)


class Cut(EchoEngine):
    """Breaks off in the middle."""

    def __init__(self, frames: list[bytes], error: Exception | None = None) -> None:
        super().__init__()
        self._cut = frames
        self._error = error

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        for frame in self._cut:
            yield frame
        if self._error is not None:
            raise self._error


async def test_an_answer_without_a_head_is_a_broken_engine() -> None:
    with pytest.raises(ConsiliumError) as caught:
        await EngineClient({"core": Cut([])}).open("core", chat("x"))
    assert caught.value.code == "upstream_down"


async def test_a_cut_stream_is_told_after_its_last_chunk() -> None:
    client = EngineClient(
        {
            "core": Cut(
                [wire.head_frame(Head(200, True, wire.SSE), b"data: 1\n\n")], RuntimeError("gone")
            )
        }
    )
    turn = await client.open("core", chat("x"))
    chunks = aiter(turn)
    assert await anext(chunks) == b"data: 1\n\n"
    with pytest.raises(ConsiliumError):
        await anext(chunks)


async def test_a_stream_without_a_tail_is_broken() -> None:
    turn = await EngineClient({"core": Cut([wire.head_frame(Head(200, True, wire.SSE))])}).open(
        "core", chat("x")
    )
    with pytest.raises(ConsiliumError, match="upstream_down"):
        _ = [chunk async for chunk in turn]


async def test_tail_in_the_first_item() -> None:
    turn = await EngineClient(
        {"core": Cut([wire.document(Head(200, False, wire.JSON), b"{}", Tail())])}
    ).open("core", chat("x"))
    assert [chunk async for chunk in turn] == [b"{}"]


class Handle:
    """A Serve handle whose `info` answers or fails, and whose streams go on for ever."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.info = self

    def options(self, *, stream: bool) -> SimpleNamespace:
        assert stream

        async def items() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"data: x\n\n"

        return SimpleNamespace(stream=SimpleNamespace(remote=lambda _call: items()))

    _router: object = None

    def runs(self) -> dict[str, object]:
        """Return the replicas that the handle knows, one at first."""
        running: dict[str, object] = {"one": object()}
        router = SimpleNamespace(request_router=SimpleNamespace(curr_replicas=running))
        self._router = SimpleNamespace(_asyncio_router=router)
        return running

    def remote(self) -> Awaitable[dict[str, object]]:
        async def said() -> dict[str, object]:
            if self.error is not None:
                raise self.error
            return asdict(
                ExecutorInfo(
                    "core",
                    "engine",
                    "tiny",
                    context=512,
                    state=State.READY,
                    places=16,
                    special_tokens=("<|im_start|>", "<|im_end|>"),
                    characters_per_token=3.1,
                    characters_per_token_beyond_ascii=0.7,
                )
            )

        return said()


async def test_an_engine_that_never_spoke_is_starting_and_later_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", "", fallback="small"))
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    handle.error = TimeoutError()
    assert await client.probe("core") is State.STARTING
    handle.error = None
    assert await client.probe("core") is State.READY
    assert (
        client.info("core").model,
        client.info("core").places,
        client.info("core").fallback,
    ) == ("tiny", 16, "small")
    handle.error = ActorDiedError()
    assert await client.probe("core") is State.DOWN
    assert client.info("core").model == "tiny"


async def test_what_an_engine_knows_of_its_tokens_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ServeEngine(ExecutorInfo("core", "engine", ""))
    monkeypatch.setattr(engine, "_handle", Handle())
    client = EngineClient({"core": engine})
    assert client.info("core").special_tokens == ()
    assert client.info("core").estimate_tokens("x" * 62) == 16
    await client.probe("core")
    assert client.info("core").special_tokens == ("<|im_start|>", "<|im_end|>")
    assert client.info("core").estimate_tokens("x" * 62) == 20
    assert client.info("core").estimate_tokens("ж" * 7) == 10


async def test_an_executor_that_is_too_full_to_be_asked_is_no_less_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Questions wait behind calls in Serve's queue; only silence means that it is down."""
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    assert await client.probe("core") is State.READY
    call = engine.stream(chat("x"))
    await anext(call)
    handle.error = TimeoutError()
    assert await client.probe("core") is State.READY
    handle.error = ActorDiedError()
    assert await client.probe("core") is State.DOWN
    handle.error = TimeoutError()
    await anext(call)
    assert await client.probe("core") is State.READY
    await call.aclose()
    monkeypatch.setattr("consilium.engine.backends.serve.HEARD_S", 0.0)
    assert await client.probe("core") is State.DOWN
    await client.aclose()


async def test_after_the_last_replica_died_an_executor_starts_until_the_next_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the dead one said is no proof: for 30 s after its last token the executor was called ready, and every call hung."""
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    running = handle.runs()
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    assert await client.probe("core") is State.READY
    assert engine.replicas() == 1
    call = engine.stream(chat("x"))
    await anext(call)
    running.clear()
    handle.error = TimeoutError()
    assert await client.probe("core") is State.STARTING
    running["two"] = object()  # it runs, and has not said anything
    assert await client.probe("core") is State.STARTING
    handle.error = None
    assert await client.probe("core") is State.READY
    await call.aclose()
    running.clear()
    handle.error = DeploymentUnavailableError()
    assert await client.probe("core") is State.DOWN  # Serve has given it up
    await client.aclose()


async def test_a_question_ends_soon_after_the_replica_is_gone_that_it_was_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve keeps it for the next replica, and the executor was called ready until its limit."""
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    running = handle.runs()
    monkeypatch.setattr(engine, "_handle", handle)
    monkeypatch.setattr("consilium.engine.backends.serve.INFO_TIMEOUT_S", 600.0)
    client = EngineClient({"core": engine})
    assert await client.probe("core") is State.READY
    never = asyncio.Event()

    async def silent() -> dict[str, object]:
        running.clear()
        await never.wait()
        return {}

    handle.remote = silent  # type: ignore[method-assign]
    async with asyncio.timeout(60):
        assert await client.probe("core") is State.STARTING
    await client.aclose()


@pytest.mark.parametrize(
    ("left", "said", "code"),
    [
        (0, None, "engine_starting"),
        (1, "ActorDiedError", "engine_starting"),
        (2, "ActorDiedError", "upstream_down"),
        (0, "DeploymentUnavailableError", "engine_failed"),
    ],
)
async def test_a_call_to_an_executor_whose_replica_died_ends_soon_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, left: int, said: str | None, code: str
) -> None:
    """Serve keeps such a call until a replica runs, which takes as long as an engine takes to start."""
    failures = {
        "ActorDiedError": ActorDiedError(),
        "DeploymentUnavailableError": DeploymentUnavailableError(),
    }

    async def items() -> AsyncGenerator[bytes, None]:
        if said is not None:
            raise failures[said]
        await asyncio.Event().wait()
        yield b""

    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    monkeypatch.setattr(
        handle,
        "options",
        lambda **_: SimpleNamespace(stream=SimpleNamespace(remote=lambda _: items())),
    )
    router = SimpleNamespace(
        request_router=SimpleNamespace(curr_replicas=dict.fromkeys(range(left)))
    )
    handle._router = SimpleNamespace(_asyncio_router=router)
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    async with asyncio.timeout(60):
        with pytest.raises(ConsiliumError) as caught:
            await client.open("core", chat("x"))
    assert caught.value.code == code
    if code == "engine_starting":
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s >= 1
    await client.aclose()


def slow_whole_answer(*first: bytes, after_s: float = 1.2) -> SimpleNamespace:
    """What Serve says of a call whose answer is one frame and takes a while."""

    async def items() -> AsyncGenerator[bytes, None]:
        for item in first:
            yield item
        await asyncio.sleep(after_s)
        yield wire.document(Head(200, False, wire.JSON), b"{}", Tail())

    return SimpleNamespace(stream=SimpleNamespace(remote=lambda _: items()))


async def test_a_replica_that_is_ending_gives_the_answers_that_it_has_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve counts it no more while it finishes its calls; a whole answer has no byte until it is there."""
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    monkeypatch.setattr(handle, "options", lambda **_: slow_whole_answer(TAKEN))
    router = SimpleNamespace(request_router=SimpleNamespace(curr_replicas={}))
    handle._router = SimpleNamespace(_asyncio_router=router)
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    turn = await client.open("core", chat("x"))
    assert [chunk async for chunk in turn] == [b"{}"]
    await client.aclose()


async def test_a_handle_that_shows_no_replicas_ends_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they stand is Ray's own affair, and another Ray may keep them elsewhere."""
    handle, engine = Handle(), ServeEngine(ExecutorInfo("core", "engine", ""))
    monkeypatch.setattr(handle, "options", lambda **_: slow_whole_answer())
    handle._router = SimpleNamespace(_another_router=None)
    monkeypatch.setattr(engine, "_handle", handle)
    client = EngineClient({"core": engine})
    turn = await client.open("core", chat("x"))
    assert [chunk async for chunk in turn] == [b"{}"]
    assert engine.replicas() is None
    await client.aclose()


class ActorDiedError(Exception):
    pass


class BackPressureError(Exception):
    pass


class RayServeException(Exception):  # noqa: N818  # Ray's name
    pass


class DeploymentUnavailableError(RayServeException):
    pass


class RayTaskError(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConsiliumError("engine_starting", name="core"), "engine_starting"),
        (RayTaskError(ConsiliumError("prompt_too_long", tokens=1, limit=2)), "prompt_too_long"),
        (RayTaskError(RayTaskError(ActorDiedError())), "upstream_down"),
        (ActorDiedError("x"), "upstream_down"),
        (BackPressureError("x"), "queue_full"),
        (RayServeException("Application 'executor-core' does not exist."), "engine_starting"),
        (DeploymentUnavailableError("it failed to deploy"), "engine_failed"),
        (TimeoutError(), "deadline"),
        (ValueError("x"), "internal"),
    ],
)
def test_errors_of_handles_in_our_words(error: Exception, code: str) -> None:
    assert translate(error, "core", 5.0).code == code


def test_a_retry_is_named_where_it_makes_sense() -> None:
    for error in (ActorDiedError(), BackPressureError(), RayServeException()):
        found = translate(error, "core")
        assert found.row.retry
        assert found.retry_after_s
