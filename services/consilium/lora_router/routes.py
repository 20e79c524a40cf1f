"""Adapters come in over HTTP. What else can be done with them over HTTP is in grpc_over_http.py.

POST   /v1/adapters                      a form: `name`, settings as in the configuration, and the two files; answers the adapter
PUT    /v1/adapters/_uploads/ID/FILE     one of the two files, resumable (?offset=N); ID is the caller's choice
HEAD   /v1/adapters/_uploads/ID/FILE     how much has come, in upload-offset
POST   /v1/adapters/_uploads/ID          JSON: {"name": ..., settings}: both files are there, take it in; answers the adapter
POST   /v1/adapters/_known/SHA           the same for content that the name has already: no file is sent, those that are there are hashed; 404 or 500 = send them
DELETE /v1/adapters/_uploads/ID          forget it

Knows requests. What a new adapter has to go through is the business of `Take`.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import Asgi
from consilium.kernel.multipart import Multipart
from consilium.kernel.principals import Principal
from consilium.kernel.uploads import offset_of
from consilium.lora_router import audit
from consilium.lora_router.http_arrivals import Arrivals
from consilium.lora_router.http_fields import Said, from_body, from_form
from consilium.lora_router.store import FILES

OFFSET: Final = "upload-offset"
RESULTS: Final = ("stored", "refused", "failed")
"""What becomes of an adapter that somebody offers."""
_MOST_SAID: Final = 256 << 10
"""Bytes of the JSON that says what an upload is."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An adapter whose files have come: they lie in `folder`, on the store's disk, and may be moved from there.

    known  hash of a version that the name has already; then no files have come, and `folder` is None
    """

    said: Said
    folder: Path | None
    principal: Principal
    known: str = ""


Take: TypeAlias = Callable[[Offered], Awaitable[Mapping[str, object]]]
"""Checks and stores an adapter, and returns it as JSON; `stored` there is the hash of its version. Raises ConsiliumError."""


class Face:
    """The routes over the uploads and what takes them in."""

    def __init__(self, arrivals: Arrivals, take: Take, count: Callable[[str], None]) -> None:
        self._arrivals = arrivals
        self._take_in = take
        self._count = count

    async def form(self, request: Request) -> Response:
        """Take a form with everything in it."""
        principal: Principal = request.scope["principal"]
        upload, fields = f"form-{secrets.token_hex(12)}", {}
        try:
            async for part in Multipart(request.scope, request.receive):
                if part.filename is None:
                    fields[part.name] = await part.text()
                    continue
                file = part.filename if part.filename in FILES else part.name
                await self._arrivals.receive(principal.tenant, upload, file, 0, part.receive)
            return await self._taken(principal, upload, from_form(fields))
        finally:
            self._arrivals.forget(principal.tenant, upload)

    async def put(self, request: Request) -> Response:
        """Take a piece of a file, or a whole one."""
        upload, file = request.path_params["upload"], request.path_params["file"]
        size = await self._arrivals.receive(
            request.scope["principal"].tenant,
            upload,
            file,
            offset_of(request.scope),
            request.receive,
        )
        return JSONResponse({"bytes": size}, 201, {OFFSET: str(size)})

    async def head(self, request: Request) -> Response:
        """Say how much of a file has come."""
        upload, file = request.path_params["upload"], request.path_params["file"]
        size = self._arrivals.size(request.scope["principal"].tenant, upload, file)
        return Response(headers={OFFSET: str(size)})

    async def finish(self, request: Request) -> Response:
        """Take in an upload whose files are there."""
        said = await _said(request)
        return await self._taken(request.scope["principal"], request.path_params["upload"], said)

    async def known(self, request: Request) -> Response:
        """Take in what is there already, as if its files had come again."""
        principal: Principal = request.scope["principal"]
        said, sha = await _said(request), request.path_params["sha"]
        return await self._offered(Offered(said, None, principal, sha))

    async def forget(self, request: Request) -> Response:
        """Delete an upload."""
        self._arrivals.forget(request.scope["principal"].tenant, request.path_params["upload"])
        return Response(status_code=204)

    async def _taken(self, principal: Principal, upload: str, said: Said) -> Response:
        with self._arrivals.taken(principal.tenant, upload) as folder:
            return await self._offered(Offered(said, folder, principal))

    async def _offered(self, offered: Offered) -> Response:
        result, said = "failed", offered.said
        with audit.change(
            "adapter_added", offered.principal, adapter=said.name, force=said.force
        ) as told:
            try:
                answer = await self._take_in(offered)
                result = "stored"
            except ConsiliumError:
                result = "refused"
                raise
            finally:
                self._count(result)
            told["sha"] = answer.get("stored")
        return JSONResponse(dict(answer), 201)


async def _said(request: Request) -> Said:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_SAID:
            raise ConsiliumError(
                "body_too_large", size=len(body), key="this path", limit=_MOST_SAID
            )
    return from_body(bytes(body))


def application(
    arrivals: Arrivals,
    take: Take,
    others: Sequence[Route] = (),
    count: Callable[[str], None] = lambda _result: None,
) -> Asgi:
    """Return the ASGI application: what takes files, and the other routes of the room.

    count  is told of each adapter that was offered: stored, refused or failed
    """
    face = Face(arrivals, take, count)
    upload = "/v1/adapters/_uploads/{upload}"
    routed: Asgi = Router(
        [
            Route("/v1/adapters", face.form, methods=["POST"]),
            Route(f"{upload}/{{file}}", face.put, methods=["PUT"]),
            Route(f"{upload}/{{file}}", face.head, methods=["HEAD"]),
            Route(upload, face.finish, methods=["POST"]),
            Route(upload, face.forget, methods=["DELETE"]),
            Route("/v1/adapters/_known/{sha}", face.known, methods=["POST"]),
            *others,
        ]
    )
    return routed
