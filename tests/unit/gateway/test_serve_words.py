import json

import pytest

from consilium.gateway.serve_words import InOurWords

TEXT = [(b"content-type", b"text/plain")]
UNKNOWN = b"Path '/v1/models' not found. Ping http://.../-/routes for available routes."


async def answered(path, status=200, body=b"", headers=TEXT):
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:4], "more_body": True})
        await send({"type": "http.response.body", "body": body[4:]})

    async def whole(_scope, _receive, send):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def send(message):
        sent.append(message)

    behind = app if status == 200 else whole
    await InOurWords(behind, ("/v1/greeter",))({"type": "http", "path": path}, None, send)
    head, *rest = sent
    return head["status"], dict(head["headers"]), b"".join(part["body"] for part in rest)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/greeter/x", "/"])
async def test_a_path_that_serve_does_not_know_yet_is_a_reason_to_come_back(path):
    status, headers, body = await answered(path, 404, UNKNOWN)
    assert status == 503
    assert int(headers[b"retry-after"]) >= 1
    assert int(headers[b"content-length"]) == len(body)
    error = json.loads(body)["error"]
    assert error["code"] == "engine_starting"
    assert "routes" not in error["message"]


@pytest.mark.parametrize("status", [500, 503])
async def test_a_process_that_is_gone_is_told_without_its_traceback(status):
    status, headers, body = await answered("/v1/models", status, b"ActorDiedError: pid 17")
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    assert json.loads(body)["error"]["code"] == "upstream_down"
    assert b"Actor" not in body


@pytest.mark.parametrize(
    ("path", "status", "body", "headers"),
    [
        ("/v1/models", 200, b"Path 'x' is fine", TEXT),
        ("/v1/greeter/x", 404, b"there is no x", TEXT),
        ("/v1/greeter/x", 503, b"the room starts", TEXT),
        ("/v1/models", 503, b'{"error":{}}', [(b"content-type", b"application/json")]),
        ("/v1/models", 404, b'{"error":{}}', [(b"content-type", b"application/json")]),
        ("/-/healthz", 200, b"success", TEXT),
    ],
)
async def test_what_is_not_serves_own_goes_through_untouched(path, status, body, headers):
    assert await answered(path, status, body, headers) == (status, dict(headers), body)
