"""What other rooms import: how adapters are named, and a client that hides protobuf.

    router = LoraRouterClient(house.channel("lora_router"))
    reference = await router.compose(("core:3f9c...@1", "sport:77ab...@0.7"))

Errors are the house's own. Knows the wire. Does not know files or engines.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from consilium.kernel.grpc_channel import Channel
from consilium.kernel.principals import CLUSTER
from consilium.lora_router.grpc_messages import as_dict
from consilium.lora_router.identity import MIX, Part, lora_int_id, parse, reference
from consilium.v1 import lora_router_pb2 as pb
from consilium.v1 import lora_router_pb2_grpc as rpc

__all__ = [
    "MIX",
    "LoraRouterClient",
    "Part",
    "content_sha",
    "lora_int_id",
    "parse",
    "reference",
]

COMPOSE_S: Final = 120.0
POLL_MARGIN_S: Final = 10.0
FETCH_S: Final = 1800.0


class LoraRouterClient:
    """Calls of one channel. What is inside the cluster only is asked as the cluster itself."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = rpc.LoraRouterServiceStub(channel.raw)

    async def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """Send a ReportRequest and return the ReportResponse, both as dicts with the proto's field names. Enums are their names, numbers are numbers. Raises ConsiliumError."""
        request = ParseDict(report, pb.ReportRequest())
        answer: pb.ReportResponse = await self._channel.ask(
            self._stub.Report,
            request,
            timeout_s=request.wait_s + POLL_MARGIN_S,
            principal=CLUSTER,
        )
        return as_dict(answer)

    async def files(self, sha: str) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield the pieces of the two files of a version, as (file, piece). Raises ConsiliumError."""
        async for message in self._channel.listen(
            self._stub.FetchFiles,
            pb.FetchFilesRequest(sha=sha),
            timeout_s=FETCH_S,
            principal=CLUSTER,
        ):
            yield message.file, message.piece

    async def compose(self, parts: Sequence[str]) -> str:
        """Return the reference of the sum of NAME:SHA@WEIGHT, which is made if it is not there yet. Raises ConsiliumError."""
        answer: pb.ComposeResponse = await self._channel.ask(
            self._stub.Compose,
            pb.ComposeRequest(parts=parts),
            timeout_s=COMPOSE_S,
            principal=CLUSTER,
        )
        return answer.reference

    async def want(self, names: Sequence[str], until: float) -> None:
        """Tell which adapters are likely needed until then (Unix seconds). Raises ConsiliumError."""
        await self._channel.ask(
            self._stub.Want, pb.WantRequest(names=names, until=until), principal=CLUSTER
        )


def content_sha(folder: Path, *, beat: Callable[[], None] = lambda: None) -> str:
    """Return the hash of the adapter that lies in a folder, 64 hex characters. Blocks; raises ConsiliumError(adapter_refused) where it is none.

    beat  called after each piece that was read
    """
    from consilium.lora_router import adapter_files  # noqa: PLC0415  # only engines read files

    return adapter_files.content_sha(folder, beat=beat)
