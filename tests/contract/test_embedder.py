"""One contract for every embedder: the wheels' models, a real HTTP server, an executor behind the engine client, a real gateway over gRPC, and with the cache."""

import asyncio
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tests.component.gateway.conftest import TOKEN, serve

from consilium.embedding.backends.catalogue import MODELS, open_offline
from consilium.embedding.backends.engine import EngineEmbedder
from consilium.embedding.backends.gateway import TEXTS as GATEWAY_TEXTS
from consilium.embedding.backends.gateway import GatewayEmbedder
from consilium.embedding.backends.openai import OpenAI
from consilium.embedding.cache import Cached
from consilium.embedding.service import Embeddings
from consilium.engine import wire
from consilium.engine.client import EngineClient
from consilium.engine.ports import ExecutorInfo, Head, State, Tail, Usage
from consilium.gateway.client import GenerationClient
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel

WIDTH = 48


def reference(text):
    """A true embedding of a small kind: counts of letter pairs, hashed into WIDTH numbers. Not normalised, as many servers answer."""
    row = np.zeros(WIDTH, dtype=np.float32)
    for left, right in zip(f" {text.lower()} ", f"{text.lower()}  ", strict=False):
        row[(ord(left) * 31 + ord(right)) % WIDTH] += 3
    return row


def reply(body, *, form=None):
    texts = body["input"]
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(reference(text).tobytes()).decode()
            if form == "base64"
            else reference(text).tolist(),
        }
        for index, text in enumerate(texts)
    ]
    total = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": rows[::-1],
        "model": body["model"],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, raw, headers = server.answer(body)
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def server():
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.seen = []
    served.answer = lambda body: (200, json.dumps(reply(body)).encode(), {})
    thread = threading.Thread(
        target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    served.url = f"http://127.0.0.1:{served.server_port}/v1"
    yield served
    served.shutdown()
    served.server_close()
    thread.join(5)


class EmbeddingEngine:
    """An engine of this process that answers embeddings and nothing else."""

    status = 200

    async def start(self):
        pass

    async def check(self):
        pass

    async def stop(self):
        pass

    def info(self):
        return ExecutorInfo(
            "vectors", "engine", "served-name", context=512, state=State.READY, revision="abc123"
        )

    async def stream(self, call):
        assert call.route == "embeddings"
        assert call.body["model"] == "served-name"
        head = Head(self.status, stream=False, content_type=wire.JSON)
        if self.status != 200:
            yield wire.failure(
                head,
                ConsiliumError("invalid_request", field="input", reason="too long for this model"),
            )
            return
        raw = json.dumps(reply(call.body)).encode()
        yield wire.head_frame(head, raw[:100])
        yield raw[100:]
        yield wire.tail_frame(Tail(Usage(prompt_tokens=1)))


@pytest.fixture
async def cluster(tmp_path):
    """Start a real gateway with MiniLM when it is called, and return a client as a room of the cluster has it."""
    running = []

    async def start():
        endpoint = Embeddings(open_offline("all-MiniLM-L6-v2", threads=1), model="all-MiniLM-L6-v2")
        running.append((await serve(tmp_path, embeddings=endpoint), endpoint))
        return GenerationClient(running[-1][0].channel(token=TOKEN))

    yield start
    for bench, endpoint in running:
        await bench.close()
        await endpoint.aclose()


@pytest.fixture(
    params=[
        *MODELS,
        "openai",
        "engine",
        "gateway",
        "minilm-e5 cached",
        "openai cached",
        "engine cached",
        "gateway cached",
    ]
)
async def embedder(request, server, cluster):
    kind, _, cached = request.param.partition(" ")
    if kind in MODELS:
        made = open_offline(kind, batch=4, threads=1)
    elif kind == "openai":
        made = OpenAI(server.url, "pairs", key="sk-right", batch=4, timeout_s=60)
    elif kind == "gateway":
        made = GatewayEmbedder(await cluster())
    else:
        made = EngineEmbedder(
            EngineClient({"vectors": EmbeddingEngine()}), "vectors", "pairs", batch=4
        )
    if cached:
        made = Cached(made, 1 << 20)
    yield made
    await made.aclose()


TEXTS = [
    "The cat sits outside",
    "A cat is outdoors",
    "Stock markets fell sharply",
    "a",
    "Привет, мир",
    "x " * 200,
]


async def test_one_unit_vector_per_text(embedder):
    found = await embedder.embed(TEXTS)
    assert found.values.dtype == np.float32
    assert found.values.shape == (len(TEXTS), embedder.fingerprint().dimensions)
    assert np.allclose(np.linalg.norm(found.values, axis=1), 1, atol=1e-5)
    assert len(found.tokens) == len(TEXTS)
    assert found.tokens[-1] == max(found.tokens) > 10


async def test_neighbours_do_not_change_a_vector(embedder):
    together = await embedder.embed(TEXTS)
    for text, row in zip(TEXTS, together.values, strict=True):
        alone = await embedder.embed([text])
        assert np.allclose(alone.values[0], row, atol=1e-6)


async def test_like_texts_lie_closer(embedder):
    cat, cats, stocks = (await embedder.embed(TEXTS[:3])).values
    assert cat @ cats > cat @ stocks


async def test_order_and_duplicates_are_kept(embedder):
    first = await embedder.embed(["one", "two", "one"])
    assert np.array_equal(first.values[0], first.values[2])
    second = await embedder.embed(["two", "one"])
    assert np.allclose(first.values[[1, 0]], second.values, atol=1e-6)


async def test_the_fingerprint_is_stable_and_names_the_model(embedder):
    await embedder.embed(["a"])
    seen = embedder.fingerprint()
    await embedder.embed(["b", "c"], "query")
    assert embedder.fingerprint() == seen
    assert seen.key().endswith(f"-{seen.dimensions}")
    assert seen.model
    assert seen.normalised


async def test_many_callers_at_once(embedder):
    answers = await asyncio.gather(
        *(embedder.embed([f"text {number}", "shared"]) for number in range(8))
    )
    for answer in answers[1:]:
        assert np.allclose(answer.values[1], answers[0].values[1], atol=1e-6)


async def test_it_answers_the_endpoint(embedder):
    endpoint = Embeddings(embedder, model="pairs", may_be_cut=True)
    answer = await endpoint.create(
        {
            "model": "pairs",
            "input": ["the quick brown fox", "jumps over the dog"],
            "encoding_format": "base64",
            "dimensions": 24,
        }
    )
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 3
    for row in answer["data"]:
        values = np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4")
        assert values.shape == (24,)
        assert np.isclose(np.linalg.norm(values), 1, atol=1e-5)


# What only one backend has.


async def test_the_gateway_cuts_as_configured_and_names_its_fingerprint(tmp_path, server):
    endpoint = Embeddings(OpenAI(server.url, "pairs"), model="pairs", dimensions=24)
    bench = await serve(tmp_path, embeddings=endpoint)
    made = GatewayEmbedder(GenerationClient(bench.channel()))
    assert made.fingerprint().dimensions is None
    assert (await made.embed(["a b", "c"], "query")).values.shape == (2, 24)
    assert made.fingerprint().key() == endpoint.fingerprint().key()
    assert made.fingerprint().dimensions == 24
    await bench.close()
    await endpoint.aclose()


async def test_the_gateway_is_asked_in_pieces(cluster):
    made = GatewayEmbedder(await cluster())
    texts = [f"text {number}" for number in range(2 * GATEWAY_TEXTS + 3)]
    found = await made.embed(texts)
    assert found.values.shape == (len(texts), 384)
    assert np.allclose(found.values[-1], (await made.embed(texts[-1:])).values[0], atol=1e-6)


async def test_a_cluster_that_embeds_otherwise_than_before_is_noticed(tmp_path, server):
    made = []
    for dimensions in (24, 12):
        endpoint = Embeddings(OpenAI(server.url, "pairs"), model="pairs", dimensions=dimensions)
        made.append((endpoint, await serve(tmp_path, embeddings=endpoint)))
    room = GatewayEmbedder(GenerationClient(made[0][1].channel()))
    await room.embed(["a"])
    room._gateway = GenerationClient(made[1][1].channel())
    with pytest.raises(ConsiliumError, match="cannot be compared") as caught:
        await room.embed(["a"])
    assert caught.value.code == "conflict"
    for endpoint, bench in made:
        await bench.close()
        await endpoint.aclose()


async def test_a_gateway_that_is_away_is_told():
    channel = Channel("127.0.0.1:9", name="gateway", timeout_s=3)
    with pytest.raises(ConsiliumError) as caught:
        await GatewayEmbedder(GenerationClient(channel), timeout_s=3).embed(["a"])
    assert caught.value.code == "upstream_down"
    await channel.aclose()


async def test_prefixes_belong_to_their_kind(server):
    made = OpenAI(server.url, "pairs", query_prefix="Q: ", passage_prefix="P: ")
    await made.embed(["a"], "query")
    await made.embed(["a"], "passage")
    assert [body["input"] for _, _, body in server.seen] == [["Q: a"], ["P: a"]]
    assert made.fingerprint().key() != OpenAI(server.url, "pairs").fingerprint().key()
    await made.aclose()


async def test_openai_sends_the_key_and_batches(server):
    made = OpenAI(server.url + "/", "pairs", key="sk-right", batch=4)
    found = await made.embed([f"text number {number}" for number in range(10)])
    assert [len(body["input"]) for _, _, body in server.seen] == [4, 4, 2]
    assert {(path, auth) for path, auth, _ in server.seen} == {
        ("/v1/embeddings", "Bearer sk-right")
    }
    assert sum(found.tokens) == 30
    await made.aclose()


async def test_openai_reads_base64_too(server):
    server.answer = lambda body: (200, json.dumps(reply(body, form="base64")).encode(), {})
    made = OpenAI(server.url, "pairs")
    expected = reference("abc") / np.linalg.norm(reference("abc"))
    assert np.allclose((await made.embed(["abc"])).values[0], expected, atol=1e-6)
    await made.aclose()


def error(message):
    return json.dumps({"error": {"message": message}}).encode()


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ((401, error("bad key"), {}), "config_invalid", "refuses the key"),
        ((404, error("no such model: pairs"), {}), "config_invalid", "no such model: pairs"),
        ((400, error("input is too long"), {}), "invalid_request", "input is too long"),
        ((429, error("slow down"), {"Retry-After": "7"}), "upstream_down", "Try again in 7.0 s"),
        ((503, b"<html>busy</html>", {}), "upstream_down", "Try again in 1.0 s"),
        ((200, b"<html>hello</html>", {}), "upstream_down", "not answering"),
        ((200, b'{"data": []}', {}), "upstream_down", "not answering"),
        ((200, b'{"data": [{"index": 0, "embedding": []}]}', {}), "upstream_down", "not answering"),
        (
            (200, b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}', {}),
            "upstream_down",
            "not answering",
        ),
        (
            (200, b'{"data": [{"index": 0, "embedding": "%%%"}]}', {}),
            "upstream_down",
            "not answering",
        ),
        ((200, b"[1, 2]", {}), "upstream_down", "not answering"),
        (
            (
                200,
                b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1]}]}',
                {},
            ),
            "upstream_down",
            "not answering",
        ),
    ],
)
async def test_openai_faults_have_a_code_and_a_sentence(server, answer, code, says):
    server.answer = lambda _: answer
    made = OpenAI(server.url, "pairs")
    with pytest.raises(ConsiliumError) as caught:
        await made.embed(["a"])
    assert caught.value.code == code
    assert says in caught.value.public()
    await made.aclose()


async def test_openai_without_a_server():
    made = OpenAI("http://127.0.0.1:9/v1", "pairs")
    with pytest.raises(ConsiliumError) as caught:
        await made.embed(["a"])
    assert caught.value.code == "upstream_down"
    await made.aclose()


async def test_a_model_that_changes_behind_its_name_is_noticed(server):
    made = OpenAI(server.url, "pairs")
    await made.embed(["a"])
    server.answer = lambda _: (200, b'{"data": [{"index": 0, "embedding": [1, 0]}]}', {})
    with pytest.raises(ConsiliumError) as caught:
        await made.embed(["b"])
    assert caught.value.code == "conflict"
    assert "48" in caught.value.public()
    await made.aclose()


async def test_an_engines_refusal_stays_its_sentence():
    engine = EmbeddingEngine()
    engine.status = 400
    made = EngineEmbedder(EngineClient({"vectors": engine}), "vectors", "pairs")
    with pytest.raises(ConsiliumError, match="too long for this model") as caught:
        await made.embed(["a"])
    assert caught.value.code == "invalid_request"
    assert made.fingerprint().revision == "abc123"


async def test_an_engine_that_says_nothing_is_not_waited_for_for_ever():
    class Silent(EmbeddingEngine):
        async def stream(self, call):
            await asyncio.Event().wait()
            yield b""

    made = EngineEmbedder(EngineClient({"vectors": Silent()}), "vectors", "pairs", timeout_s=0.1)
    with pytest.raises(ConsiliumError) as caught:
        await asyncio.wait_for(made.embed(["a"]), 60)
    assert caught.value.code == "deadline"
