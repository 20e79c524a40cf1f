"""Adapters come in over HTTP: by real sockets, whole, in pieces, broken off, at once, and by two tenants."""

import asyncio
import errno
import os
import time

import httpx
import pytest
from tests.component.lora_router.shelves import (
    assert_same,
    describe,
    opened,
    write_adapter,
)
from tests.waiting import LIMIT_S

from consilium.kernel import uploads
from consilium.kernel.clock import CountedIds, FakeClock, SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import HttpServer
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.inner_http import InnerHttp
from consilium.kernel.principals import PRINCIPAL_KEY, TOKEN_KEY, Principal, sign
from consilium.lora_router.http_arrivals import KEPT_S, Arrivals
from consilium.lora_router.http_fields import merged
from consilium.lora_router.incoming import Incoming
from consilium.lora_router.routes import application

TOKEN = "of-this-test"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KIB = 1 << 10
UPLOAD = "/v1/adapters/_uploads/0123456789"


async def nothing(_scope, _receive, _send):
    raise AssertionError("the page was asked for")


@pytest.fixture
async def room(tmp_path):
    """A library behind its routes, as the room's process has them; `room.url` is a real socket."""
    async with opened(tmp_path / "r") as library:
        arrivals = Arrivals(tmp_path / "r" / "uploads", 1024 * KIB, clock=SystemClock())

        async def take(offered):
            said = offered.said
            before = library.holdings.names.get(said.name)
            settings = merged(said, before.registered if before else None)
            version = await library.add(
                Incoming(
                    said.name,
                    offered.folder,
                    settings,
                    is_ours=True,
                    make_current=True if said.force else None,
                )
            )
            return {"name": said.name, "stored": version.sha}

        app = InnerHttp(application(arrivals, take), InnerAuth(TOKEN), nothing, CountedIds())
        server = HttpServer(app, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{await server.start()}"

        def client(tenant="home"):
            who = Principal("k1", "kate", frozenset({"admin"}), tenant=tenant)
            headers = {TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(who, TOKEN, time.time())}
            return httpx.AsyncClient(base_url=url, headers=headers, timeout=LIMIT_S)

        yield type("Room", (), {"library": library, "arrivals": arrivals, "client": staticmethod(client), "root": tmp_path / "r"})  # fmt: skip
        await server.stop(1)


@pytest.fixture
def files(tmp_path):
    def read(mark, size=300 * KIB):
        folder = write_adapter(tmp_path / "from" / mark, mark, size)
        return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    return read


def sha_of(tmp_path, mark):
    return describe(tmp_path / "from" / mark).sha


async def test_a_form_brings_everything(room, files, tmp_path):
    sent = files("a")
    form = {"name": "sport", "placement": "vram", "examples": "How?\nWhen?", "weight": "0.5"}
    async with room.client() as client:
        parts = [("file", (name, content)) for name, content in sent.items()]
        answer = await client.post("/v1/adapters", data=form, files=parts)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"name": "sport", "stored": sha_of(tmp_path, "a")}
    said, (version,) = room.library.get("sport")
    assert (said.placement, said.examples, said.weight) == ("vram", ("How?", "When?"), 0.5)
    assert (version.path / WEIGHTS).read_bytes() == sent[WEIGHTS]
    assert not list((room.root / "uploads").glob("*/*"))
    assert_same(room.root, room.library)


async def until_there(client):
    """Return how many bytes of the weights have come, once some have."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            head = await client.head(f"{UPLOAD}/{WEIGHTS}")
            if there := int(head.headers["upload-offset"]):
                return there
            await asyncio.sleep(0.02)


async def test_an_upload_goes_on_where_it_broke_off(room, files, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PIECE_BYTES", 32 * KIB)  # on the disk before it is whole
    sent = files("a")
    async with room.client() as client:

        async def breaking_off():
            yield sent[WEIGHTS][: 100 * KIB]
            await until_there(client)
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await client.put(
                f"{UPLOAD}/{WEIGHTS}",
                content=breaking_off(),
                headers={"content-length": str(len(sent[WEIGHTS]))},
            )
        there = await until_there(client)
        assert there <= 100 * KIB
        rest, answer = sent[WEIGHTS][there:], None
        async with asyncio.timeout(LIMIT_S):  # the room may not know yet that the first caller left
            while answer is None or answer.status_code == 409:
                answer = await client.put(f"{UPLOAD}/{WEIGHTS}?offset={there}", content=rest)
        assert answer.json() == {"bytes": len(sent[WEIGHTS])}
        missing = await client.post(UPLOAD, json={"name": "sport"})
        assert missing.status_code == 422
        assert f"there is no {CONFIG}" in missing.json()["error"]["message"]
        await client.put(f"{UPLOAD}/{CONFIG}", content=sent[CONFIG])
        answer = await client.post(UPLOAD, json={"name": "sport", "domain": "running"})
    assert answer.status_code == 201, answer.text
    assert room.library.find("sport").sha == sha_of(tmp_path, "a")
    assert room.library.get("sport")[0].domain == "running"
    assert_same(room.root, room.library)


async def test_what_is_said_later_keeps_what_was_said_before(room, files):
    async with room.client() as client:
        for mark, said in (("a", {"domain": "running"}), ("b", {}), ("c", {"weight": 0.5})):
            for name, content in files(mark).items():
                await client.put(f"{UPLOAD}/{name}", content=content)
            answer = await client.post(UPLOAD, json={"name": "sport", "force": True, **said})
            assert answer.status_code == 201, answer.text
    said, versions = room.library.get("sport")
    assert (said.domain, said.weight, len(versions)) == ("running", 0.5, 3)
    assert said.current == versions[0].sha


async def test_nobody_writes_into_an_upload_that_is_taken_in(room, files):
    async with room.client() as client:
        for name, content in files("a").items():
            await client.put(f"{UPLOAD}/{name}", content=content)
        with room.arrivals.taken("home", "0123456789"):
            answer = await client.put(f"{UPLOAD}/{CONFIG}", content=b"{}")
            assert answer.status_code == 409
            assert (await client.post(UPLOAD, json={"name": "a"})).status_code == 409
            assert (await client.delete(UPLOAD)).status_code == 409

        started, go_on = asyncio.Event(), asyncio.Event()

        async def slowly():
            yield b"x"
            started.set()
            await go_on.wait()
            yield b"y"

        writing = asyncio.ensure_future(client.put(f"{UPLOAD}/{CONFIG}", content=slowly()))
        await started.wait()
        for _ in range(100):
            answer = await client.post(UPLOAD, json={"name": "a"})
            if answer.status_code == 409:
                break
        assert answer.status_code == 409
        go_on.set()
        assert (await writing).status_code == 201


async def test_tenants_do_not_see_each_others_uploads(room, files):
    sent = files("a")
    async with room.client("one") as one, room.client("two") as two:
        await one.put(f"{UPLOAD}/{WEIGHTS}", content=sent[WEIGHTS])
        head = await two.head(f"{UPLOAD}/{WEIGHTS}")
        assert head.headers["upload-offset"] == "0"
        assert (await two.delete(UPLOAD)).status_code == 204
        head = await one.head(f"{UPLOAD}/{WEIGHTS}")
        assert int(head.headers["upload-offset"]) == len(sent[WEIGHTS])


async def test_an_upload_over_the_limits(room):
    async with room.client() as client:
        big = os.urandom(1025 * KIB)
        answer = await client.put(f"{UPLOAD}/{WEIGHTS}", content=big)
        assert answer.json()["error"]["code"] == "body_too_large"
        for number in range(3):
            answer = await client.put(f"{UPLOAD}-{number}/{WEIGHTS}", content=big[: 1000 * KIB])
        assert answer.json()["error"]["code"] == "storage_quota"
        assert (await client.delete(f"{UPLOAD}-0")).status_code == 204
        answer = await client.put(f"{UPLOAD}-2/{WEIGHTS}", content=big[: 1000 * KIB])
        assert answer.status_code == 201


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[]", "JSON object"),
        (b"{", "JSON object"),
        (b"[" * 100_000, "JSON object"),
        (b"{}", "say how the adapter is to be called"),
        (b'{"name": 7}', "say how the adapter is to be called"),
        (b'{"name": "a", "force": "yes"}', "true or false"),
        (b'{"name": "a", "placment": "ram"}', "placement"),
        (b'{"name": "a", "path": "/etc"}', "there is no key 'path'"),
        (b'{"name": "a", "placement": "disk"}', "vram"),
        (b'{"name": "a", "weight": 11}', "weight"),
        (b'{"name": "a", "with_core": "../x"}', "with_core"),
        (b'{"name": "../x"}', "cannot be an adapter's name"),
    ],
)
async def test_what_is_said_wrongly_is_told(room, files, body, told):
    async with room.client() as client:
        for name, content in files("a").items():
            await client.put(f"{UPLOAD}/{name}", content=content)
        answer = await client.post(UPLOAD, content=body)
        assert answer.status_code == 400, answer.text
        assert told in answer.json()["error"]["message"]
        good = await client.post(UPLOAD, json={"name": "sport"})
        assert good.status_code == 201, "what was sent is still there"


@pytest.mark.parametrize("path", [f"{UPLOAD}/adapter_model.bin", "/v1/adapters/_uploads/a.b/x"])
async def test_paths_that_may_not_be(room, path):
    async with room.client() as client:
        assert (await client.put(path, content=b"x")).status_code == 400


async def test_forms_that_are_wrong_leave_nothing(room, files):
    sent = files("a")
    async with room.client() as client:
        for data, parts in (
            ({"name": "sport"}, {"x": ("adapter_model.bin", b"pickle")}),
            ({"name": "sport", "weight": "much"}, {WEIGHTS: sent[WEIGHTS]}),
            ({"name": "sport", "isolated": "perhaps"}, {WEIGHTS: sent[WEIGHTS]}),
            ({"name": "sport"}, {WEIGHTS: sent[WEIGHTS]}),
            ({}, {WEIGHTS: sent[WEIGHTS], CONFIG: sent[CONFIG]}),
        ):
            answer = await client.post("/v1/adapters", data=data, files=parts)
            assert answer.status_code in (400, 422), answer.text
    assert not list((room.root / "uploads").glob("*/*"))
    assert_same(room.root, room.library)


async def test_no_token_no_upload(room):
    async with room.client() as client:
        answer = await client.put(f"{UPLOAD}/{CONFIG}", content=b"{}", headers={TOKEN_KEY: "x"})
        assert answer.status_code == 401


def test_what_nobody_goes_on_with_is_forgotten_after_a_day(tmp_path):
    clock = FakeClock(unix=time.time())
    arrivals = Arrivals(tmp_path, KIB, clock=clock)
    (tmp_path / "home" / "01234567").mkdir(parents=True)
    (tmp_path / "home" / "01234567" / CONFIG).write_text("{}")
    arrivals.sweep()
    assert list(tmp_path.glob("*/*"))
    clock.unix += KEPT_S + 10
    with arrivals.taken("home", "76543210"):
        arrivals.sweep()
    assert not list(tmp_path.glob("*/*"))
    with pytest.raises(ConsiliumError), arrivals.taken("home", "../../x"):
        pass


async def test_what_goes_away_or_is_no_folder_does_not_end_the_sweep(tmp_path, monkeypatch):
    clock = FakeClock(unix=time.time())
    arrivals = Arrivals(tmp_path, KIB, clock=clock)
    for tenant in ("a", "b", "c"):
        (tmp_path / tenant / "01234567").mkdir(parents=True)
        (tmp_path / tenant / "01234567" / CONFIG).write_text("{}")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "a" / ".DS_Store").write_text("x")
    lstat = type(tmp_path).lstat

    def going(path):
        """One upload is taken in while it is looked at."""
        if path == tmp_path / "b" / "01234567" / CONFIG:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return lstat(path)

    monkeypatch.setattr("pathlib.Path.lstat", going)
    clock.unix += KEPT_S + 10
    running = asyncio.ensure_future(arrivals.run())
    async with asyncio.timeout(30):
        while (tmp_path / "c" / "01234567").exists():  # noqa: ASYNC110  the sweep runs in a thread
            await asyncio.sleep(0.01)
    assert not running.done(), "a background that fails ends the process"
    running.cancel()
    assert not (tmp_path / "a" / "01234567").exists()
    assert (tmp_path / "b" / "01234567").exists(), "the next hour looks again"
