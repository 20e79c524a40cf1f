"""LoraRouterService over HTTP: what comes to the servicer, and what its messages look like, by a real socket."""

import time

import httpx
import pytest

from consilium.kernel.clock import CountedIds
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import HttpServer
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.inner_http import InnerHttp
from consilium.kernel.principals import PRINCIPAL_KEY, TOKEN_KEY, Principal, sign
from consilium.lora_router.grpc_over_http import routes
from consilium.lora_router.routes import application
from consilium.v1 import lora_router_pb2 as pb
from consilium.v1 import lora_router_pb2_grpc as rpc

TOKEN = "of-this-test"
VERSION = pb.Version(
    sha="3f" * 32,
    size_bytes=1 << 40,
    proof=pb.PROOF_OK,
    residences=[pb.Residence(executor="core", replica="r1", tier=pb.TIER_VRAM, slot=0)],
)
ADAPTER = pb.Adapter(name="sport", versions=[VERSION], placement=pb.TIER_RAM)


class Recorder(rpc.LoraRouterServiceServicer):
    """Answers the same always, and keeps what came."""

    def __init__(self):
        self.asked = []

    def keep(self, request, answer):
        if getattr(request, "name", "") == "gone":
            raise ConsiliumError("adapter_unknown", name="gone")
        self.asked.append(request)
        return answer

    async def ListAdapters(self, request, context):
        return self.keep(request, pb.ListAdaptersResponse(adapters=[ADAPTER], quota_bytes=7))

    async def GetAdapter(self, request, context):
        return self.keep(request, pb.GetAdapterResponse(adapter=ADAPTER))

    async def PlaceAdapter(self, request, context):
        return self.keep(request, pb.PlaceAdapterResponse(adapter=ADAPTER))

    async def WarmAdapter(self, request, context):
        return self.keep(request, pb.WarmAdapterResponse(residences=VERSION.residences))

    async def EvictAdapter(self, request, context):
        return self.keep(request, pb.EvictAdapterResponse())

    async def RemoveAdapter(self, request, context):
        return self.keep(request, pb.RemoveAdapterResponse(removed=["sport:3f"]))

    async def SwitchVersion(self, request, context):
        return self.keep(request, pb.SwitchVersionResponse(adapter=ADAPTER))


@pytest.fixture
async def room():
    recorder = Recorder()
    app = application(None, None, routes(recorder))
    inner = InnerHttp(app, InnerAuth(TOKEN), app, CountedIds())
    server = HttpServer(inner, "127.0.0.1", 0)
    who = Principal("k1", "kate", frozenset({"admin"}))
    headers = {TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(who, TOKEN, time.time())}
    url = f"http://127.0.0.1:{await server.start()}/v1/adapters"
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        client.recorder, client.url = recorder, url
        yield client
    await server.stop(1)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "", None, pb.ListAdaptersRequest()),
        ("GET", "?sums=true", None, pb.ListAdaptersRequest(with_sums=True)),
        ("GET", "/sport", None, pb.GetAdapterRequest(name="sport")),
        ("DELETE", "/sport:3f?wait_s=2.5", None, pb.RemoveAdapterRequest(name="sport:3f", wait_s=2.5)),
        ("POST", "/sport/place", {"placement": "vram"}, pb.PlaceAdapterRequest(name="sport", placement=pb.TIER_VRAM)),
        ("POST", "/sport:3f1a/warm", {"tier": "ram"}, pb.WarmAdapterRequest(name="sport:3f1a", tier=pb.TIER_RAM)),
        ("POST", "/sport/warm", None, pb.WarmAdapterRequest(name="sport")),
        ("POST", "/sport/evict", None, pb.EvictAdapterRequest(name="sport")),
        ("POST", "/sport/switch", {"sha": "3f1a", "force": True}, pb.SwitchVersionRequest(name="sport", sha="3f1a", force=True)),
    ],
)  # fmt: skip
async def test_each_method(room, method, path, body, expected):
    answer = await room.request(method, f"{room.url}{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert room.recorder.asked == [expected]


async def test_what_an_answer_looks_like(room):
    found = (await room.get(room.url)).json()
    assert (found["stored_bytes"], found["quota_bytes"]) == (0, 7)
    (adapter,) = found["adapters"]
    assert adapter["placement"] == "ram"
    assert (adapter["domain"], adapter["triggers"]) == ("", [])
    assert "threshold" not in adapter
    (version,) = adapter["versions"]
    assert (version["size_bytes"], version["proof"], version["misses"]) == (1 << 40, "ok", 0)
    (place,) = version["residences"]
    assert (place["tier"], place["slot"], place["exact"]) == ("vram", 0, False)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("place", b"[]", "JSON object"),
        ("place", b"{", "JSON object"),
        ("place", b'{"placement": "disk"}', "one of ssd, ram, vram"),
        ("place", b'{"placement": {}}', "one of ssd, ram, vram"),
        ("place", b'{"name": "other"}', "no such key"),
        ("switch", b'{"sha": 7}', "sha, force"),
        ("evict", b'{"x": 1}', "there is none"),
    ],
)
async def test_what_is_asked_wrongly_is_told(room, path, body, told):
    answer = await room.post(f"{room.url}/sport/{path}", content=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


async def test_an_error_is_the_same_as_over_grpc(room):
    answer = await room.get(f"{room.url}/gone")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_unknown")
    assert (await room.delete(f"{room.url}/sport?wait_s=soon")).status_code == 400
