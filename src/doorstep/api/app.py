"""The control plane over HTTP: every operation as `POST /api/v1/noun/verb`, uploads, the console.

Bodies are decoded by strict msgspec, not by the framework, whose decoding is lenient. Every route
but `/healthz`, `/readyz`, `/sign-in`, the OpenAPI document and the console's static files needs
a token or a session; a test walks all routes and asserts it. Refusals are JSON; a browser
that asks for anything but the API is told by a page.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, BinaryIO, Protocol, TypeAlias

import msgspec
from anyio import to_thread
from litestar import Litestar, MediaType, Request, Response, get, post, put
from litestar.enums import RequestEncodingType, ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.params import Body
from litestar.response import Redirect, Stream
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

from doorstep.api.bodies import decode_body
from doorstep.api.openapi import openapi, path_of
from doorstep.api.sessions import Sessions
from doorstep.api.streams import OutcomeStream
from doorstep.core.errors import DoorstepError, ForbiddenError, NotFoundError
from doorstep.core.ids import new_id, parse_digest
from doorstep.core.operation import Operation
from doorstep.core.people import OWNER, SignedIn
from doorstep.journal.surface import ExportJournal, OutcomesRecorded, RecordOutcomes
from doorstep.kernel.http_status import headers_of, status_of
from doorstep.kernel.turns import Turns

BODY_BYTES_MAX = 32 * 1024 * 1024
UPLOAD_BYTES_MAX = 8 * 1024**3
CHUNK_BYTES = 1 << 18
SIGN_IN_BYTES_MAX = 4096
SPOOL_BYTES = 1 << 20
"""An upload on its way is in memory while it is small, then in a temporary file."""
SAID_CHARS_MAX = 8_000
"""Of what an error says: it may repeat what was sent."""
_log = logging.getLogger("doorstep.api")

AnyRequest: TypeAlias = Request[Any, Any, Any]
SignInForm: TypeAlias = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
Refuser: TypeAlias = Callable[[AnyRequest, Any], Response[Any]]
"""What answers an exception."""


class Control(Protocol):
    """What the HTTP layer needs of the control plane."""

    operations: Mapping[str, Operation]
    addresses: Mapping[str, str]
    version: str

    def ask(self, name: str, asked: msgspec.Struct, *, by: SignedIn) -> msgspec.Struct: ...

    def admit(self, by: SignedIn, permission: str) -> object: ...

    def upload(self, digest: str, chunks: Any) -> None: ...

    def export_ledger(self) -> bytes: ...

    def export_journal(self, asked: ExportJournal) -> BinaryIO: ...

    def is_ready(self) -> bool: ...


def build_app(
    control: Control,
    sessions: Sessions,
    hosts: frozenset[str],
    pages: Sequence[ControllerRouterHandler],
    shown: Mapping[int | type[Exception], Refuser],
) -> Litestar:
    """hosts: the Host header values that are answered (a page of another site that resolves its
    name to this machine is not). pages: the console's handlers. shown: how a browser is told of
    a DoorstepError and of an HTTPException; everything else is told in JSON."""
    refuse = _by_reader(_refuse, shown[DoorstepError])
    table = list(control.operations.values())
    routes: list[Any] = [_operation_route(control, sessions, one) for one in table]
    routes += [
        _upload_route(control, sessions),
        _export_route(control, sessions),
        _journal_route(control, sessions),
        _outcomes_route(control, sessions),
        _invite_route(control, sessions),
        _openapi_route(table, control.version),
        *_open_routes(control, sessions),
        *pages,
    ]
    return Litestar(
        route_handlers=routes,
        middleware=[DefineMiddleware(HostGuard, hosts=hosts)],
        exception_handlers={
            DoorstepError: refuse,
            HTTPException: _by_reader(_http_error, shown[HTTPException]),
            Exception: lambda request, error: refuse(request, _our_fault(error)),
        },
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
    )


def _operation_route(control: Control, sessions: Sessions, one: Operation) -> HTTPRouteHandler:
    decoder = msgspec.json.Decoder(one.input, strict=True)
    turns = Turns(one.name)

    async def answer(request: AnyRequest) -> Response[bytes]:
        by = await _who(sessions, request)
        asked = decode_body(decoder, await request.body() or b"{}", one.name)
        found = await turns.take(lambda: control.ask(one.name, asked, by=by))
        return Response(msgspec.json.encode(found), media_type=MediaType.JSON, status_code=200)

    answer.__name__ = one.name.replace(".", "_").replace("-", "_")
    return post(f"/api/v1{path_of(one)}", opt={"operation": one.name})(answer)


async def _who(sessions: Sessions, request: AnyRequest) -> SignedIn:
    """Who asks, by their token. Raises: SignInError."""
    header = request.headers.get("authorization")
    if sessions.is_owner(header):
        return OWNER
    return await to_thread.run_sync(sessions.require_token, header)


async def _admit(
    control: Control, sessions: Sessions, request: AnyRequest, permission: str
) -> None:
    """For what is no operation. Raises: SignInError, ForbiddenError."""
    by = await _who(sessions, request)
    await to_thread.run_sync(control.admit, by, permission)


def _upload_route(control: Control, sessions: Sessions) -> HTTPRouteHandler:
    @put("/api/v1/blobs/{digest:str}", request_max_body_size=UPLOAD_BYTES_MAX)
    async def put_blob(request: AnyRequest) -> Response[bytes]:
        await _admit(control, sessions, request, "version:write")
        digest = parse_digest(request.path_params["digest"])
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            async for chunk in request.stream():
                spool.write(chunk)
            spool.seek(0)
            await to_thread.run_sync(lambda: control.upload(digest, spool))
        return Response(b"{}", media_type=MediaType.JSON, status_code=201)

    return put_blob


def _export_route(control: Control, sessions: Sessions) -> HTTPRouteHandler:
    @get("/api/v1/ledger/export")
    async def export_ledger(request: AnyRequest) -> Response[bytes]:
        await _admit(control, sessions, request, "ledger:read")
        found = await to_thread.run_sync(control.export_ledger)
        return Response(found, media_type="application/x-ndjson")

    return export_ledger


def _journal_route(control: Control, sessions: Sessions) -> HTTPRouteHandler:
    """Not an operation: its answer is a file of any size, sent as it is read."""
    decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(ExportJournal)
    turns = Turns("journal.export")

    @post("/api/v1/journal/export", status_code=200)
    async def export_journal(request: AnyRequest) -> Stream:
        await _admit(control, sessions, request, "prediction:read")
        asked = decode_body(decoder, await request.body() or b"{}", "journal.export")
        assert isinstance(asked, ExportJournal)
        file = await turns.take(lambda: control.export_journal(asked))
        size_bytes = os.fstat(file.fileno()).st_size
        headers = {"content-length": str(size_bytes)}
        return Stream(_chunks(file), media_type="application/octet-stream", headers=headers)

    return export_journal


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _outcomes_route(control: Control, sessions: Sessions) -> HTTPRouteHandler:
    """Not an operation: its body is of any length, recorded while it arrives."""
    turns = Turns("outcome.record")

    async def record(by: SignedIn, asked: RecordOutcomes) -> OutcomesRecorded:
        found = await turns.take(lambda: control.ask("outcome.record", asked, by=by))
        assert isinstance(found, OutcomesRecorded)
        return found

    path = "/api/v1/services/{service:str}/outcomes"

    @post(path, status_code=200, request_max_body_size=None)
    async def stream_outcomes(request: AnyRequest) -> Response[bytes]:
        by = await _who(sessions, request)
        stream = OutcomeStream(request.path_params["service"], partial(record, by))
        told = await stream.take(request.stream())
        return Response(msgspec.json.encode(told), media_type=MediaType.JSON, status_code=200)

    return stream_outcomes


def _invite_route(control: Control, sessions: Sessions) -> HTTPRouteHandler:
    @post("/api/v1/session/invite", status_code=200)
    async def invite(request: AnyRequest) -> dict[str, str]:
        code = sessions.invite(await _who(sessions, request))
        return {"url": f"{control.addresses['console']}/sign-in?code={code}"}

    return invite


def _openapi_route(table: Sequence[Operation], version: str) -> HTTPRouteHandler:
    document = msgspec.json.encode(openapi(table, version))

    @get("/api/v1/openapi.json", opt={"open": True})
    async def openapi_document() -> Response[bytes]:
        return Response(document, media_type=MediaType.JSON)

    return openapi_document


def _open_routes(control: Control, sessions: Sessions) -> list[HTTPRouteHandler]:
    @get("/healthz", opt={"open": True})
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", opt={"open": True})
    async def readyz() -> Response[dict[str, str]]:
        ready = await to_thread.run_sync(control.is_ready)
        return Response(
            {"status": "ready" if ready else "starting"}, status_code=200 if ready else 503
        )

    @get("/sign-in", opt={"open": True})
    async def sign_in(request: AnyRequest) -> Redirect:
        return _begun(sessions, sessions.accept(request.query_params.get("code", "")))

    @post("/sign-in", opt={"open": True}, request_max_body_size=SIGN_IN_BYTES_MAX, status_code=303)
    async def sign_in_by_token(request: AnyRequest, data: SignInForm) -> Redirect:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise ForbiddenError(
                "bad-form-token",
                "the form is on a page of another site, so nobody was signed in",
                control.addresses["console"],
            )
        header = f"Bearer {data.get('token', '')}"
        who = await to_thread.run_sync(sessions.require_token, header)
        return _begun(sessions, sessions.begin(who))

    return [healthz, readyz, sign_in, sign_in_by_token]


def _begun(sessions: Sessions, session: str) -> Redirect:
    answer = Redirect("/", status_code=303)
    answer.set_cookie(sessions.cookie, session, httponly=True, samesite="strict", path="/")
    return answer


class HostGuard:
    """Refuses a Host header that is not ours, before anything else looks at the request."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            if host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
                response: Response[Any] = Response(
                    _body(NotFoundError("wrong-host", f"{host!r} is not a name of this server")),
                    status_code=421,
                )
                await response.to_asgi_response(None, Request(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _by_reader(said: Refuser, shown: Refuser) -> Refuser:
    """`shown` to a browser outside of the API, `said` to everybody else."""

    def answer(request: AnyRequest, error: Any) -> Response[Any]:
        is_page = not request.url.path.startswith("/api/")
        is_browser = is_page and "text/html" in request.headers.get("accept", "")
        return (shown if is_browser else said)(request, error)

    return answer


def _refuse(_: AnyRequest, error: DoorstepError) -> Response[dict[str, Any]]:
    status = status_of(error.kind)
    return Response(_body(error), status_code=status, headers=headers_of(error.kind))


def _http_error(_: AnyRequest, error: HTTPException) -> Response[dict[str, Any]]:
    codes = {404: "no-route", 405: "wrong-method", 413: "too-large"}
    code = codes.get(error.status_code, "bad-request")
    said = DoorstepError(code, str(error.detail))
    return Response(_body(said), status_code=error.status_code)


def _our_fault(error: Exception) -> DoorstepError:
    # Internals stay in the log; the caller gets an id to ask about.
    incident = new_id().hex
    _log.exception("internal error %s", incident, exc_info=error)
    return DoorstepError(
        "internal-error",
        f"a fault of Doorstep's, noted in its log under {incident}",
        "doorstep doctor",
    )


def _body(error: DoorstepError) -> dict[str, Any]:
    return {
        "error": {
            "kind": error.kind,
            "code": error.code,
            "message": error.message[:SAID_CHARS_MAX],
            "hint": error.hint[:SAID_CHARS_MAX],
        }
    }
