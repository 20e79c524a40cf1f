"""Packed gRPC messages: opened within the limit. gRPC does that by itself, and this holds it to it."""

import grpc
import pytest

from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc


async def test_packed_messages_are_opened_within_the_limit(gateway):
    bench = await gateway(max_body_bytes=1 << 20)
    metadata = (("authorization", f"Bearer {bench.key}"),)
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{bench.grpc.port}", compression=kind
        ) as channel:
            stub = rpc.GenerationServiceStub(channel)
            small = pb.CountTokensRequest(prompt="one two three")
            assert (await stub.CountTokens(small, metadata=metadata, timeout=60)).tokens == 3
            for size in (3 << 20, 40 << 20):  # some kB on the wire
                bomb = pb.CountTokensRequest(prompt="x" * size)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.CountTokens(bomb, metadata=metadata, timeout=60)
                assert caught.value.code() in (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.StatusCode.INVALID_ARGUMENT,
                )
