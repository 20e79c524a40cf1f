"""gRPC clients that nobody wrote for us meet the public face: they know what reflection tells them, and send no deadline."""

import json

import pytest
from tests.json_objects import objects

from consilium.kernel import grpc_reflection

SERVICE = "consilium.v1.GenerationService"
ASK = {
    "model": "base",
    "chat": {"messages": [{"author": "AUTHOR_USER", "content": [{"text": "one two three"}]}]},
    "sampling": {"max_tokens": 3},
}
CALLS = 200
PLAIN = ("-plaintext", "-connect-timeout", "120")


async def test_grpcurl_lists_the_service_and_plays_a_turn(gateway, said):
    bench = await gateway()
    at = f"127.0.0.1:{bench.grpc.port}"
    assert SERVICE in await said("grpcurl", *PLAIN, at, "list")
    assert "rpc Generate" in await said("grpcurl", *PLAIN, at, "describe", SERVICE)
    words = (*PLAIN, "-H", f"authorization: Bearer {bench.key}", "-d", json.dumps(ASK))
    answers = objects(await said("grpcurl", *words, at, f"{SERVICE}/Generate"))
    assert answers[0]["metadata"]["executor"] == "core"
    assert answers[-1]["final"]["usage"]["completion_tokens"] == 3  # names as in the proto


async def test_grpcurl_lists_models_of_both_kinds_and_asks_for_vectors(gateway, said):
    bench = await gateway()
    at = f"127.0.0.1:{bench.grpc.port}"
    words = (*PLAIN, "-H", f"authorization: Bearer {bench.key}", "-d")
    (listed,) = objects(await said("grpcurl", *words, "{}", at, f"{SERVICE}/ListModels"))
    models = {model["id"]: model for model in listed["models"]}
    assert (models["base"]["kind"], models["base"]["root"]) == ("MODEL_KIND_CORE", "echo")
    named = models["text-embedding-3-small"]
    assert (named["kind"], named["root"]) == ("MODEL_KIND_EMBEDDING", "two-numbers")
    ask = json.dumps({"model": "text-embedding-3-small", "texts": ["a b", "c"]})
    (made,) = objects(await said("grpcurl", *words, ask, at, f"{SERVICE}/Embed"))
    assert (made["model"], made["dimensions"], len(made["embeddings"])) == ("two-numbers", 2, 2)


async def test_grpcurl_shows_why_a_call_is_refused(gateway, said):
    bench = await gateway()
    at = f"127.0.0.1:{bench.grpc.port}"
    unknown = json.dumps({**ASK, "model": "nope"})
    vectors = json.dumps({**ASK, "model": "two-numbers"})
    for key, ask, code, name, says in (
        ("csl_none_none", json.dumps(ASK), 16, "Unauthenticated", "key"),
        (bench.key, unknown, 5, "NotFound", "nope"),
        (bench.key, vectors, 3, "InvalidArgument", "gRPC: Embed"),
    ):
        words = (*PLAIN, "-H", f"authorization: Bearer {key}", "-d", ask, at)
        told = await said("grpcurl", *words, f"{SERVICE}/Generate", code=64 + code)
        assert f"Code: {name}" in told
        assert says in told


async def test_grpcurl_that_leaves_early_stops_the_engine(gateway, said):
    bench = await gateway()
    words = [*PLAIN, "-max-time", "8", "-H", f"authorization: Bearer {bench.key}", "-d"]
    waits = {"messages": [{"author": "AUTHOR_USER", "content": [{"text": "!wait"}]}]}
    at = f"127.0.0.1:{bench.grpc.port}"
    ask = json.dumps({"model": "base", "chat": waits})
    told = await said("grpcurl", *words, ask, at, f"{SERVICE}/Generate", code=64 + 4)
    assert "DeadlineExceeded" in told
    await bench.until(lambda: not bench.engines["core"].running)


async def test_ghz_sends_hundreds_of_turns_and_none_fails(gateway, said):
    bench = await gateway()
    key = json.dumps({"authorization": f"Bearer {bench.key}"})
    words = ["--insecure", "--call", f"{SERVICE}.Generate", "-m", key, "-d", json.dumps(ASK)]
    words += [
        "-n",
        str(CALLS),
        "-c",
        "16",
        "--connect-timeout",
        "120s",
        "--timeout",
        "120s",
        "-O",
        "json",
        f"127.0.0.1:{bench.grpc.port}",
    ]
    told = json.loads(await said("ghz", *words))
    assert told["statusCodeDistribution"] == {"OK": CALLS}
    assert len(bench.engines["core"].calls) == CALLS


@pytest.mark.parametrize("version", [grpc_reflection.V1, grpc_reflection.V1ALPHA])
async def test_grpcurl_is_served_by_each_version_of_reflection_alone(
    gateway, said, monkeypatch, version
):
    monkeypatch.setattr(grpc_reflection, "NAMES", (version,))
    bench = await gateway()
    at = f"127.0.0.1:{bench.grpc.port}"
    assert SERVICE in await said("grpcurl", *PLAIN, at, "list")
    assert "rpc Generate" in await said("grpcurl", *PLAIN, at, "describe", SERVICE)
