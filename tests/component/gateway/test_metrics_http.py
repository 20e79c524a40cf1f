"""GET /v1/metrics over real sockets: who may read it, how often the parts are asked for it, and what it says while they are slow or gone."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.component.gateway.pages import PAGE, Pages

from consilium.gateway import http_metrics
from consilium.gateway.http_metrics import AGE, HttpMetrics
from consilium.kernel.clock import Clock, FakeClock, SystemClock
from consilium.kernel.errors import ConsiliumError

SCOPES = frozenset({"metrics.read"})


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    served = Pages()
    await served.listen()
    yield served
    await served.close()


@asynccontextmanager
async def reading(*hosts: str, port: int, clock: Clock | None = None) -> AsyncIterator[HttpMetrics]:
    """Open the reader of a headless Service that has these addresses."""

    async def lookup(_name: str, at: int) -> list[tuple[str, int]]:
        return [(host, at) for host in hosts]

    made = HttpMetrics(f"dns:///pages:{port}", clock or SystemClock(), lookup)
    yield made
    await made.aclose()


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_a_key_with_the_scope_reads_the_page(gateway, pages: Pages) -> None:
    bench = await gateway(page=pages.url)
    client = bench.client(await bench.new_key(scopes=SCOPES))
    answer = await client.get("/v1/metrics", headers={"accept-encoding": "identity"})
    assert answer.status_code == 200
    assert answer.text == PAGE
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 0 <= float(answer.headers["x-consilium-age"]) < 1
    packed = await client.get("/v1/metrics", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == PAGE
    head = await client.head("/v1/metrics", headers={"accept-encoding": "identity"})
    assert head.headers["content-length"] == str(len(PAGE))
    assert not head.content


async def test_other_keys_are_told_what_is_missing(gateway, pages: Pages) -> None:
    bench = await gateway(page=pages.url)
    answer = await bench.client().get("/v1/metrics")
    assert answer.status_code == 403
    assert "'metrics.read'" in answer.json()["error"]["message"]
    assert (await bench.client("csl_nobody").get("/v1/metrics")).status_code == 401
    admin = bench.client(await bench.new_key(scopes=frozenset({"admin"})))
    assert (await admin.get("/v1/metrics")).status_code == 200
    assert pages.asked == 1


async def test_nobody_may_where_no_key_is_required(gateway, pages: Pages) -> None:
    bench = await gateway(page=pages.url, auth=False)
    answer = await bench.client().get("/v1/metrics")
    assert answer.status_code == 403
    assert "gateway.auth" in answer.json()["error"]["message"]


async def test_many_callers_cost_one_read(
    gateway, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_metrics, "FRESH_S", 600.0)
    bench = await gateway(page=pages.url)
    client = bench.client(await bench.new_key(scopes=SCOPES))
    answers = await asyncio.gather(*(client.get("/v1/metrics") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert pages.asked == 1
    monkeypatch.setattr(http_metrics, "FRESH_S", 0.0)
    await client.get("/v1/metrics")
    assert pages.asked == 2


async def test_a_page_that_does_not_come_is_a_503_that_says_so(
    gateway, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_metrics, "LIMIT_S", 0.3)
    pages.wait_s = 600.0
    bench = await gateway(page=pages.url)
    client = bench.client(await bench.new_key(scopes=SCOPES))
    answer = await client.get("/v1/metrics")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    said = answer.json()["error"]["message"]
    assert pages.url in said
    assert "consilium status" in said
    pages.wait_s = 0.0
    assert (await client.get("/v1/metrics")).status_code == 200


async def test_a_gateway_that_was_told_no_page_names_the_setting(gateway) -> None:
    bench = await gateway()
    client = bench.client(await bench.new_key(scopes=SCOPES))
    answer = await client.get("/v1/metrics")
    assert answer.status_code == 501
    assert "services.gateway.metrics" in answer.json()["error"]["message"]


async def test_reads_are_counted_and_leave_no_log_lines(gateway, pages: Pages) -> None:
    bench = await gateway(page=pages.url)
    client = bench.client(await bench.new_key(scopes=SCOPES))
    await client.get("/v1/metrics")
    page = bench.face.cast.meter._metrics.page()
    assert 'consilium_gateway_requests_total{code="200",executor="none",route="metrics"}' in page


async def test_the_pages_of_pods_are_one_page_that_tells_them_apart() -> None:
    one, two = Pages(), Pages()
    await one.listen("127.0.0.1")
    await two.listen("127.0.0.2", one.port)
    two.said = PAGE.replace("5.0", "7.0")
    async with reading("127.0.0.1", "127.0.0.2", port=one.port) as metrics:
        found = samples((await metrics._page()).plain.decode())
    names = [f"{host}:{one.port}" for host in ("127.0.0.1", "127.0.0.2")]
    assert [found["turns_total", (("instance", name),)] for name in names] == [5.0, 7.0]
    assert [found[AGE, (("source", name),)] for name in names] == [0, 0]
    await one.close()
    await two.close()


async def test_a_pod_that_stops_answering_keeps_its_figures_for_a_while_with_their_age() -> None:
    one, two, clock = Pages(), Pages(), FakeClock()
    await one.listen("127.0.0.1")
    await two.listen("127.0.0.2", one.port)
    gone = f"127.0.0.2:{one.port}"
    async with reading("127.0.0.1", "127.0.0.2", port=one.port, clock=clock) as metrics:
        await metrics._page()
        await two.close()
        clock.advance(20.0)
        found = samples((await metrics._page()).plain.decode())
        assert found["turns_total", (("instance", gone),)] == 5.0
        assert found[AGE, (("source", gone),)] == 20
        clock.advance(70.0)
        found = samples((await metrics._page()).plain.decode())
        assert ("turns_total", (("instance", gone),)) not in found
        assert found[AGE, (("source", gone),)] == 90
    await one.close()


async def test_no_pod_at_all_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with reading("127.0.0.1", port=taken.getsockname()[1]) as metrics:
            with pytest.raises(ConsiliumError, match="not answering") as raised:
                await metrics._page()
    assert raised.value.code == "upstream_down"
    async with reading(port=9400) as metrics:
        with pytest.raises(ConsiliumError, match="not answering"):
            await metrics._page()


async def test_a_caller_that_leaves_ends_the_read_for_nobody() -> None:
    one = Pages()
    one.wait_s = 0.3
    await one.listen()
    async with reading("127.0.0.1", port=one.port) as metrics:
        left = asyncio.create_task(metrics._page())
        stays = asyncio.create_task(metrics._page())
        await asyncio.sleep(0.05)
        left.cancel()
        page = await stays
    assert b"turns_total" in gzip.decompress(page.gzip)
    assert one.asked == 1
    await one.close()
