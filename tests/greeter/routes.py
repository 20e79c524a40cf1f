"""The greeter over HTTP.

GET  /v1/greeter/whoami           who asks
GET  /v1/greeter/claims           what was taken, and whether it still takes
GET  /v1/greeter/fail?code=       an error
PUT  /v1/greeter/files/NAME       a body that goes to the disk, resumable; HEAD says how much has come, GET streams it, DELETE forgets it
POST /v1/greeter/files            a form as SDKs send it: `file`, and a `purpose` before it
GET  /v1/greeter/stream?pieces=   so many lines, 10 ms apart
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from consilium.kernel import calls, trace_context
from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.disk_quota import Account, DiskQuota
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import Asgi
from consilium.kernel.multipart import Multipart
from consilium.kernel.uploads import Uploads, offset_of, size_of
from tests.greeter.claims import Claims
from tests.greeter.config import Greeter

OFFSET = "upload-offset"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Files:
    """Files in a folder per tenant."""

    def __init__(self, folder: Path, settings: Greeter) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._max = settings.max_file_bytes
        self._quota = DiskQuota(
            folder, settings.max_tenant_bytes, setting="greeter.max_tenant_bytes"
        )
        self._uploads = Uploads()

    async def put(self, request: Request) -> Response:
        file = self._file(request)
        size = await self._uploads.receive(
            file,
            offset_of(request.scope),
            request.receive,
            limit=self._max,
            account=self._account(request),
        )
        return JSONResponse({"bytes": size}, 201, {OFFSET: str(size)})

    async def post(self, request: Request) -> Response:
        purpose, made = "", {}
        async for part in Multipart(request.scope, request.receive):
            if part.filename is None:
                purpose = await part.text(limit=100)
                continue
            file = self._named(request, part.filename)
            size = await self._uploads.receive(
                file, 0, part.receive, limit=self._max, account=self._account(request)
            )
            made = {"filename": part.filename, "bytes": size, "media": part.media}
        if not made:
            raise ConsiliumError("invalid_request", field="file", reason="the form has no file")
        return JSONResponse({**made, "purpose": purpose}, 201)

    async def get(self, request: Request) -> Response:
        file = self._file(request)
        if request.method == "HEAD":
            return Response(headers={OFFSET: str(size_of(file))})
        if not file.exists():
            raise ConsiliumError("route_unknown", name=request.url.path)
        return FileResponse(file, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        file, account = self._file(request), self._account(request)
        there = size_of(file)
        file.unlink(missing_ok=True)
        account.give(there)
        return Response(status_code=204)

    def _account(self, request: Request) -> Account:
        return self._quota.account(request.scope["principal"].tenant)

    def _file(self, request: Request) -> Path:
        return self._named(request, str(request.path_params["name"]))

    def _named(self, request: Request, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConsiliumError("invalid_request", field="name", reason="it is no name of a file")
        folder = self._folder / request.scope["principal"].tenant
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / name


def application(folder: Path, settings: Greeter, claims: Claims) -> Asgi:
    """Return the ASGI application."""
    files = Files(folder, settings)

    async def whoami(request: Request) -> Response:
        asks = request.scope["principal"]
        return JSONResponse(
            {
                "key_id": asks.key_id,
                "name": asks.name,
                "scopes": sorted(asks.scopes),
                "tenant": asks.tenant,
                "owner": asks.owner,
                "request_id": calls.current().request_id,
                "trace": trace_context.headers(),
            }
        )

    async def told_claims(_request: Request) -> Response:
        return JSONResponse({"taken": claims.taken, "draining": claims.draining.is_set()})

    async def fail(request: Request) -> Response:
        code = request.query_params.get("code", "")
        if code == "unexpected":
            raise RuntimeError("password=hunter2")
        if code not in BY_CODE:
            raise ConsiliumError("invalid_request", field="code", reason="there is no such code")
        raise ConsiliumError(code, "private", reason="a test wants it so", retry_after_s=2.0)

    async def stream(request: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            for number in range(int(request.query_params.get("pieces", "3"))):
                yield f"{number}\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(lines(), media_type="text/plain")

    return Router(
        [
            Route("/v1/greeter/whoami", whoami),
            Route("/v1/greeter/claims", told_claims),
            Route("/v1/greeter/fail", fail),
            Route("/v1/greeter/stream", stream),
            Route("/v1/greeter/files", files.post, methods=["POST"]),
            Route("/v1/greeter/files/{name}", files.put, methods=["PUT"]),
            Route("/v1/greeter/files/{name}", files.get, methods=["GET", "HEAD"]),
            Route("/v1/greeter/files/{name}", files.delete, methods=["DELETE"]),
        ]
    )
