"""What a cluster is asked in a test of its figures: chats of every way in, beside each other, with what is refused and what ends early."""

import contextlib
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
from tests.real.tools import tool

BESIDE = 4
ROUNDS = 4
"""So often Prometheus reads what has grown meanwhile: a rate is a difference of two looks."""
TOKENS = 24
PROMPT = "Say what you know of rivers, and of the towns that lie on them. " * 12
"""Long enough to fill blocks of the engine's cache, so that its beginning is found there when it comes again."""
CARDS_OF = (
    "# HELP consilium_gpu_pod_info Which pod holds a card; always 1.\n"
    "# TYPE consilium_gpu_pod_info gauge\n"
    'consilium_gpu_pod_info{uuid="GPU-0",namespace="llm",pod="core-0",container="engine"} 1\n'
    "# HELP consilium_engine_gpu_info Which cards a replica of an engine holds; always 1.\n"
    "# TYPE consilium_engine_gpu_info gauge\n"
    'consilium_engine_gpu_info{executor="core",replica="0",uuid="GPU-0"} 1\n'
)
"""What a cluster with cards, and one in Kubernetes, would say of the card of the driver that is made for tests."""


class Page:
    """A page that always says the same."""

    def __init__(self, text):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}/metrics"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def play(cluster, seconds, is_read):
    """Ask for so long at least, in several threads, and end when all have their answers. Fails the test where an answer is not what it should be.

    is_read  says whether Prometheus has read every page since a time
    """
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(BESIDE + 1) as pool:
        others = pool.submit(_others, cluster, until, is_read)
        for done in [*(pool.submit(_chats, cluster, others, n) for n in range(BESIDE)), others]:
            done.result()


def _client(cluster, key=None):
    headers = {"Authorization": f"Bearer {key or cluster.key}"}
    return httpx.Client(base_url=f"{cluster.url}/v1", headers=headers, timeout=240)


def _chats(cluster, others, number):
    """Chat until the others are done, streamed and not, with the model and in a role."""
    with _client(cluster) as client:
        turn = number
        while not others.done():
            turn += 1
            model = ("base", "role/quick", "auto", "executor/core")[turn % 4]
            words = {"model": model, "messages": [{"role": "user", "content": f"{PROMPT}{turn % 5}"}], "max_tokens": TOKENS}  # fmt: skip
            if turn % 2:
                with client.stream("POST", "/chat/completions", json={**words, "stream": True}) as answer:  # fmt: skip
                    assert answer.status_code == 200
                    assert "[DONE]" in "".join(answer.iter_lines())
            else:
                answer = client.post("/chat/completions", json=words)
                assert answer.status_code == 200, answer.text


def _others(cluster, until, is_read):
    """Ask for vectors, over gRPC, a room, for what there is not, without a key, and leave early; each time once more after it was read."""
    hello = {"chat": {"messages": [{"author": "AUTHOR_USER", "content": [{"text": "Hello"}]}]}}
    generate = {"model": "base", "sampling": {"max_tokens": 4}, **hello}
    body = {"model": "nobody", "messages": [{"role": "user", "content": "Hello"}]}
    long = {**body, "model": "base", "max_tokens": 200, "stream": True}
    with _client(cluster) as client, _client(cluster, "csl_none_none") as stranger:
        rounds, since = 0, time.time()
        while time.monotonic() < until or rounds < ROUNDS:
            if is_read(since):
                rounds, since = rounds + 1, time.time()
            vectors = client.post("/embeddings", json={"model": "minilm-e5", "input": ["a", "b"]})
            assert vectors.status_code == 200, vectors.text
            assert _grpc(cluster, "consilium.v1.GenerationService/Generate", generate) == 0
            assert _grpc(cluster, "tests.greeter.GreeterService/Greet", {"name": "Ann"}) == 0
            assert _grpc(cluster, "tests.greeter.GreeterService/Fail", {"code": "unexpected"}) > 0
            assert client.get("/greeter/whoami").status_code == 200
            assert client.post("/chat/completions", json=body).status_code == 404
            assert stranger.post("/chat/completions", json=body).status_code == 401
            assert client.post("/chat/completions", json={"model": "base"}).status_code == 400
            with (
                contextlib.suppress(httpx.HTTPError),
                client.stream("POST", "/chat/completions", json=long) as left,
            ):
                next(left.iter_lines())


def _grpc(cluster, method, ask):
    """Call over gRPC, and return how grpcurl ended."""
    words = [
        "-plaintext",
        "-connect-timeout",
        "120",
        "-H",
        f"authorization: Bearer {cluster.key}",
        "-d",
        json.dumps(ask),
    ]
    words = [tool("grpcurl"), *words, cluster.grpc, method]
    return subprocess.run(words, capture_output=True, timeout=240, check=False).returncode
