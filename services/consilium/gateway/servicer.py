"""The gRPC face: GenerationService over the same turns as the HTTP face.

Wire <-> domain, nothing else: keys, quotas and turns are asked of the same objects, and the stream of an answer is read by the same parser that
clients use. Does not know how a turn is played.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from consilium.engine.client import State
from consilium.gateway import conversation_name, grpc_events, grpc_request, model_list, turn
from consilium.gateway.authority import Admitted
from consilium.gateway.face import Entry, Face
from consilium.gateway.keys import READ
from consilium.gateway.reservation import Reservation
from consilium.gateway.sse_reader import Reader
from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_server import Service
from consilium.kernel.openai_errors import told
from consilium.kernel.principals import Principal
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

NAME: Final = "consilium.v1.GenerationService"
PAGE: Final = 100
MOST: Final = 1000
HTTP_OK: Final = 200
RECEIPT_KEY: Final = "x-consilium-receipt"
TOOLS_KEY: Final = "x-consilium-tools"
TOOLS_LEFT_OUT: Final = "left-out"
_KINDS: Final = {
    "auto": pb.MODEL_KIND_CORE,
    "base": pb.MODEL_KIND_CORE,
    "model": pb.MODEL_KIND_CORE,
    "role": pb.MODEL_KIND_ROLE,
    "executor": pb.MODEL_KIND_EXECUTOR,
    "adapter": pb.MODEL_KIND_ADAPTER,
    "embedding": pb.MODEL_KIND_EMBEDDING,
}
_EMBED_KINDS: Final[Mapping[int, str]] = {
    pb.EMBED_KIND_UNSPECIFIED: "passage",
    pb.EMBED_KIND_PASSAGE: "passage",
    pb.EMBED_KIND_QUERY: "query",
}


class Generation(rpc.GenerationServiceServicer):
    """Serves one gateway replica."""

    def __init__(self, face: Face) -> None:
        self._face = face

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Answer one turn. Raises ConsiliumError; the kernel's server tells it."""
        # A request without a key is refused before it is parsed.
        self._face.authority.check_spelling(_authorization(context))
        route, body = grpc_request.generation(request, self._face.cast.limits.max_json_depth)
        conversation_name.check(request.conversation)
        entry = await self._face.enter(_authorization(context), body, request.ByteSize())
        named = request.conversation or conversation_name.named(
            _metadata(context), body, entry.admitted.key_id
        )
        deadline = calls.current().deadline
        ask = entry.ask(route, body, deadline=deadline, conversation=named)
        playing = await turn.play(self._face.cast, ask)
        try:
            head = playing.head
            if not head.stream or head.status != HTTP_OK:
                raise told(
                    _json(b"".join([chunk async for chunk in playing])),
                    head.status,
                    retry_after_s=head.retry_after,
                )
            await context.send_initial_metadata(
                (
                    (RECEIPT_KEY, playing.receipt_id),
                    (calls.REQUEST_ID_KEY, calls.current().request_id),
                    *(((TOOLS_KEY, TOOLS_LEFT_OUT),) if head.tools_left_out else ()),
                )
            )
            await playing.begin()
            yield pb.GenerateResponse(metadata=self._metadata(playing))
            reader, events = Reader(), grpc_events.Events()
            async with aclosing(aiter(playing)) as chunks:
                try:
                    async for chunk in chunks:
                        for event in reader.feed(chunk):
                            for message in events.take(event):
                                yield message
                except ConsiliumError as error:
                    playing.stopped(error)
                    raise
            for event in reader.end():
                for message in events.take(event):
                    yield message
            yield events.final(playing.usage)
        finally:
            await playing.aclose()

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        """Return a page of names, sorted by id."""
        await self._face.authority.authenticate(_authorization(context), 0, READ)
        rows = sorted(self._face.models(), key=lambda row: str(row["id"]))
        rows = [row for row in rows if str(row["id"]) > request.page_token]
        size = min(request.page_size or PAGE, MOST)
        if size < 0:
            raise ConsiliumError(
                "invalid_request", field="page_size", reason="it must not be negative"
            )
        page = rows[:size]
        return pb.ListModelsResponse(
            models=[_model(row) for row in page],
            next_page_token=str(page[-1]["id"]) if len(rows) > len(page) and page else "",
        )

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: Any
    ) -> pb.CountTokensResponse:
        """Count the tokens of a prompt, template included."""
        self._face.authority.check_spelling(_authorization(context))
        body = grpc_request.counting(request, self._face.cast.limits.max_json_depth)
        size = request.ByteSize()
        entry = await self._face.enter(_authorization(context), body, size, free=True)
        deadline = calls.current().deadline
        found = await self._document(entry.ask("tokenize", body, deadline=deadline))
        tokens = grpc_events.tokens(found.get("tokens")) if request.return_tokens else []
        return pb.CountTokensResponse(
            tokens=int(found.get("count") or 0),
            context_tokens=int(found.get("max_model_len") or 0),
            token_ids=tokens,
        )

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        """Return one vector for each text."""
        body: dict[str, Any] = {
            "model": request.model or "auto",
            "input": list(request.texts),
            "encoding_format": "base64",
            "input_type": _EMBED_KINDS.get(request.kind, str(request.kind)),
        }
        if request.HasField("dimensions"):
            body["dimensions"] = request.dimensions
        entry = await self._entry(context, body, request.ByteSize())
        used = 0
        try:
            made = await self._face.embed(body)
            used = int(made["usage"]["total_tokens"])
        finally:
            await entry.held.settle(used)
        vectors = [grpc_events.unpacked(row["embedding"]) for row in made["data"]]
        return pb.EmbedResponse(
            model=str(made["model"]),
            embeddings=[pb.Embedding(values_f32=vector) for vector in vectors],
            dimensions=len(vectors[0]) // 4 if vectors else 0,
            usage=pb.Usage(prompt_tokens=used),
            fingerprint=str(made["consilium"]["fingerprint"]),
        )

    async def GetReceipt(
        self, request: pb.GetReceiptRequest, context: Any
    ) -> pb.GetReceiptResponse:
        """Return what was decided for an earlier answer."""
        admitted = await self._face.authority.authenticate(_authorization(context), 0, READ)
        found = await self._face.receipt(request.id, admitted)
        return pb.GetReceiptResponse(receipt=grpc_events.receipt(found))

    async def _entry(self, context: Any, body: dict[str, Any], size: int) -> Entry:
        """Let in a caller with a key, or a room of the cluster, which has no quota."""
        asks = calls.current().principal
        if isinstance(asks, Principal):
            held = Reservation("", 0, self._face.authority.settle)
            return Entry(Admitted(asks, source="none"), held, size)
        return await self._face.enter(_authorization(context), body, size)

    async def _document(self, ask: turn.Ask) -> Mapping[str, Any]:
        """Play a turn that answers with one JSON document."""
        playing = await turn.play(self._face.cast, ask)
        try:
            whole = _json(b"".join([chunk async for chunk in playing]))
            if playing.head.status != HTTP_OK:
                raise told(whole, playing.head.status, retry_after_s=playing.head.retry_after)
            return whole
        finally:
            await playing.aclose()

    def _metadata(self, playing: turn.Answer) -> pb.Metadata:
        head = playing.head
        return pb.Metadata(
            receipt_id=playing.receipt_id,
            request_id=calls.current().request_id,
            executor=playing.executor,
            replica=head.replica,
            model=self._face.cast.engine.info(playing.executor).model,
            role=playing.role,
            profile=playing.profile,
            template=head.template,
        )


def service(face: Face) -> Service:
    """Return the service as the kernel's server takes it."""
    servicer = Generation(face)
    return Service(
        NAME, lambda server: rpc.add_GenerationServiceServicer_to_server(servicer, server)
    )


def _model(row: Mapping[str, Any]) -> pb.Model:
    ours = row.get("consilium") or {}
    kind = model_list.EMBEDDING if row["type"] == model_list.EMBEDDING else ours.get("kind")
    return pb.Model(
        id=str(row["id"]),
        kind=_KINDS.get(str(kind), pb.MODEL_KIND_UNSPECIFIED),
        description=str(row["description"]),
        executor=str(ours.get("executor") or ""),
        context_tokens=int(row.get("max_model_len") or 0),
        ready=ours.get("state", State.READY) == State.READY,
        root=str(row["root"]),
    )


def _metadata(context: Any) -> dict[str, str]:
    """Return the metadata of a call that is text."""
    found = context.invocation_metadata() or ()
    return {key: value for key, value in found if isinstance(value, str)}


def _authorization(context: Any) -> str | None:
    """Return the Authorization of a call."""
    return _metadata(context).get(calls.AUTHORIZATION_KEY)


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
