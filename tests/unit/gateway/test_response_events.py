"""A streamed response is told as its stored copy is, and says that it was cut where it was."""

import json

import pytest

from consilium.gateway.response_events import Events

GIVEN = {"input": "x", "previous_response_id": "resp_0", "metadata": {"a": "b"}, "store": False}
TEXT = 'They say "type":"response.completed" here.'


def event(kind: str, **more: object) -> bytes:
    # As vLLM writes it: the type last.
    return f"event: {kind}\ndata: {json.dumps({**more, 'type': kind})}\n\n".encode()


def item(number: int, status: str = "completed") -> dict[str, object]:
    return {"id": f"msg_{number}", "type": "message", "status": status}


def stream(status: str) -> list[bytes]:
    response = {"id": "resp_1", "object": "response", "instructions": "a role's", "output": []}
    done = {**response, "status": status, "output": [item(1), item(2)]}
    return [
        event("response.created", response=response),
        event("response.output_item.added", item=item(1)),
        event("response.output_text.delta", delta=TEXT),
        event("response.output_item.done", item=item(1)),
        event("response.output_item.added", item=item(2)),
        event("response.output_item.done", item=item(2)),
        event("response.completed", response=done),
    ]


def told(pieces: list[bytes]) -> list[dict]:
    events = Events(GIVEN)
    raw = b"".join([*(events.feed(piece) for piece in pieces), events.end()])
    seen = []
    for part in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        seen.append(value)
    return seen


@pytest.mark.parametrize("size", [7, 1000, 100_000])
def test_a_stream_that_was_cut_says_so_in_its_end_and_its_last_item(size):
    raw = b"".join(stream("incomplete"))
    seen = told([raw[at : at + size] for at in range(0, len(raw), size)])
    assert [value["type"].removeprefix("response.") for value in seen] == [
        "created", "output_item.added", "output_text.delta", "output_item.done", "output_item.added", "output_item.done", "incomplete",
    ]  # fmt: skip
    assert [value["item"]["status"] for value in seen if "done" in value["type"]] == ["completed", "incomplete"]  # fmt: skip
    last = seen[-1]["response"]
    assert [made["status"] for made in last["output"]] == ["completed", "incomplete"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_whole_stream_is_complete_and_every_event_says_what_the_caller_asked():
    seen = told(stream("completed"))
    assert seen[-1]["type"] == "response.completed"
    assert {value["item"]["status"] for value in seen if "item" in value} == {"completed"}
    for value in seen:
        if response := value.get("response"):
            assert response["previous_response_id"] == "resp_0"
            assert (response["metadata"], response["store"]) == ({"a": "b"}, False)
            assert response["instructions"] is None
    assert seen[2]["delta"] == TEXT


def test_what_is_no_event_of_a_response_passes_as_it_is():
    events = Events({})
    raw = b': still here\n\ndata: {"error":{"message":"no"}}\n\ndata: [DONE]\n\ndata: rest'
    assert events.feed(raw) + events.end() == raw
