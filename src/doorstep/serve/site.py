"""Which path leads where: the routes of the data plane, as thin as they can be.

GET  /healthz  /v1/services  /v1/services/{s}
POST /v1/services/{s}/predict  /v1/services/{s}/outcomes
GET  /v2  /v2/health/live  /v2/health/ready  /v2/models/{m}[/versions/{v}][/ready]
POST /v2/models/{m}[/versions/{v}]/infer
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

import msgspec

from doorstep.core.errors import DoorstepError, NotFoundError, OverloadedError, RefusedError
from doorstep.core.record import Kind
from doorstep.serve import oip
from doorstep.serve.call import Call, Codec, Exchange
from doorstep.serve.cells import CellWriter
from doorstep.serve.native import NativeCodec, describe_service, read_outcomes
from doorstep.serve.path import Path
from doorstep.serve.record import Recorder
from doorstep.serve.requestid import RequestIds, id_text
from doorstep.serve.service import Service
from doorstep.serve.version import Version

RETRY = b"retry-after: 1\r\n"
_NATIVE = NativeCodec()
_OIP = oip.OipCodec()
_STATUS = {
    "bad-json": 400,
    "rehearsal-in-production": 403,
    "unknown-service": 404,
    "unknown-version": 404,
    "unknown-route": 404,
}
_encode = msgspec.json.Encoder().encode


class Visit:
    """One request at its route."""

    __slots__ = ("body", "codec", "context", "exchange", "service", "version")

    def __init__(
        self,
        exchange: Exchange,
        codec: Codec,
        service: str,
        version: str,
        body: bytes,
        context: bytes,
    ) -> None:
        self.exchange = exchange
        self.codec = codec
        self.service = service
        self.version = version
        self.body = body
        self.context = context


class Site:
    """Answers requests from the services that this worker holds now."""

    def __init__(self, path: Path, recorder: Recorder, cells: CellWriter) -> None:
        self._path = path
        self._recorder = recorder
        self._cells = cells
        self._ids = RequestIds()
        self._hot: dict[bytes, Service] = {}
        self.services: dict[str, Service] = {}
        self.draining = False
        self.live = False
        self.environment = ""

    def swap(self, services: dict[str, Service]) -> None:
        """Serve these from now on; what is under way ends with what it began with."""
        self.services = services
        self._hot = {f"/v1/services/{name}/predict".encode(): one for name, one in services.items()}
        self.live = True

    def handle(
        self, exchange: Exchange, method: bytes, url: bytes, body: bytes, context: bytes
    ) -> None:
        """Answer one request, now or in a later turn of the loop. Raises nothing."""
        service = self._hot.get(url) if method == b"POST" else None
        codec: Codec = _NATIVE
        request = b""
        try:
            if service is not None:
                request = self._ids.next()
                parsed = service.reader.read(body, context)
                call = Call(exchange, _NATIVE, service, parsed, request, id_text(request))
                if self._path.submit(call):
                    return
                raise self._overloaded()
            codec = _OIP if url.startswith(b"/v2") else _NATIVE
            self._route(exchange, codec, method, url, body, context)
        except DoorstepError as error:
            self._refuse(exchange, codec, error, request or self._ids.next(), service)
        except Exception:  # noqa: BLE001  the edge: the caller gets an id, we get the trace
            self._fail(exchange, codec, request or self._ids.next())

    def refusal(self, url: bytes, code: str, message: str) -> bytes:
        """The body of an answer to a request that never became one."""
        codec: Codec = _OIP if url.startswith(b"/v2") else _NATIVE
        return codec.refusal(code, message, "", "")

    def _enter(self, call: Call) -> None:
        if not self._path.submit(call):
            raise self._overloaded()

    def _overloaded(self) -> OverloadedError:
        found = self._path.in_flight
        return OverloadedError("overloaded", f"{found} requests are already under way here")

    def _refuse(
        self, exchange: Exchange, codec: Codec, error: DoorstepError, request: bytes,
        service: Service | None,
    ) -> None:  # fmt: skip
        name = id_text(request)
        headers = f"doorstep-request-id: {name}\r\n".encode()
        if isinstance(error, OverloadedError):
            status, headers = 503, headers + RETRY
        else:
            status = _STATUS.get(error.code, 400 if codec is _OIP else 422)
            if service is not None:
                self._cells.refuse(service.name)
        exchange.respond(
            status, codec.refusal(error.code, error.message, error.hint, name), headers
        )

    def _fail(self, exchange: Exchange, codec: Codec, request: bytes) -> None:
        name = id_text(request)
        print(
            f"front: request {name} failed\n{traceback.format_exc()}", file=sys.stderr, flush=True
        )
        headers = f"doorstep-request-id: {name}\r\n".encode()
        body = codec.refusal("internal", "this is our fault; it was logged", "", name)
        exchange.respond(500, body, headers)

    def _route(
        self,
        exchange: Exchange,
        codec: Codec,
        method: bytes,
        url: bytes,
        body: bytes,
        context: bytes,
    ) -> None:
        parts = url.partition(b"?")[0].decode("latin-1").strip("/").split("/")
        version = ""
        if len(parts) >= 5 and parts[0] == "v2" and parts[3] == "versions":
            version = parts[4]
            del parts[3:5]
        service = parts[2] if len(parts) > 2 and parts[1] in ("services", "models") else ""
        if service:
            parts[2] = "*"
        handlers = ROUTES.get("/".join(parts))
        if handlers is None:
            raise NotFoundError("unknown-route", f"nothing is at {url[:100].decode('latin-1')}")
        handler = handlers.get("GET" if method == b"HEAD" else method.decode("latin-1"))
        if handler is None:
            allowed = ", ".join(handlers)
            said = codec.refusal("bad-method", f"expected {allowed}", "", "")
            exchange.respond(405, said, f"allow: {allowed}\r\n".encode())
            return
        handler(self, Visit(exchange, codec, service, version, body, context))

    def _service(self, visit: Visit) -> Service:
        found = self.services.get(visit.service)
        if found is None:
            names = ", ".join(sorted(self.services)[:20]) or "none yet"
            raise NotFoundError(
                "unknown-service", f"no service {visit.service[:63]!r} here", f"services: {names}"
            )
        return found

    def _version(self, visit: Visit, service: Service) -> Version | None:
        if not visit.version:
            return None
        number = int(visit.version) if visit.version.isascii() and visit.version.isdigit() else 0
        found = service.versions.get(number) if len(visit.version) < 10 else None
        if found is None:
            raise NotFoundError(
                "unknown-version",
                f"{service.name}@{visit.version[:20]} is not resident here",
                f"resident: {', '.join(map(str, sorted(service.versions)))}",
            )
        return found

    # -- routes

    def predict(self, visit: Visit) -> None:
        service, request = self._service(visit), self._ids.next()
        parsed = service.reader.read(visit.body, visit.context)
        self._enter(Call(visit.exchange, visit.codec, service, parsed, request, id_text(request)))

    def rehearse(self, visit: Visit) -> None:
        if self.environment == "production":
            raise RefusedError(
                "rehearsal-in-production", "this environment is production: rows here are real"
            )
        service, request = self._service(visit), self._ids.next()
        parsed = service.reader.read(visit.body, visit.context)
        call = Call(visit.exchange, visit.codec, service, parsed, request, id_text(request))
        call.kind = int(Kind.REHEARSAL)
        self._enter(call)

    def infer(self, visit: Visit) -> None:
        service, request = self._service(visit), self._ids.next()
        pinned = self._version(visit, service)
        asked, parsed = oip.read_infer(visit.body, service)
        call = Call(visit.exchange, visit.codec, service, parsed, request, id_text(request))
        call.extra, call.pinned = asked, pinned
        self._enter(call)

    def outcomes(self, visit: Visit) -> None:
        service, now = self._service(visit), time.time_ns() // 1000
        records = read_outcomes(visit.body, service.name, service.labels, now)
        name = id_text(self._ids.next())
        headers = f"doorstep-request-id: {name}\r\n".encode()
        try:
            for record in records:
                self._recorder.writer.outcome(record)
            self._recorder.flush()
        except (OSError, OverloadedError):
            self._recorder.drop()
            body = visit.codec.refusal(
                "journal-unavailable", "the outcomes could not be recorded", "try again", name
            )
            return visit.exchange.respond(503, body, headers + RETRY)
        return visit.exchange.respond(200, _encode({"recorded": len(records)}), headers)

    def healthz(self, visit: Visit) -> None:
        fine = self.live and not self.draining
        state = "serving" if fine else "draining" if self.draining else "starting"
        visit.exchange.respond(200 if fine else 503, _encode({"status": state}))

    def list_services(self, visit: Visit) -> None:
        found = [describe_service(one) for _, one in sorted(self.services.items())]
        for one in found:
            del one["contract"]
        visit.exchange.respond(200, _encode({"services": found}))

    def show_service(self, visit: Visit) -> None:
        visit.exchange.respond(200, _encode(describe_service(self._service(visit))))

    def server(self, visit: Visit) -> None:
        found = {"name": "doorstep", "version": "1", "extensions": []}
        visit.exchange.respond(200, _encode(found))

    def server_live(self, visit: Visit) -> None:
        visit.exchange.respond(200, _encode({"live": True}))

    def server_ready(self, visit: Visit) -> None:
        fine = self.live and not self.draining
        visit.exchange.respond(200 if fine else 503, _encode({"ready": fine, "live": True}))

    def model(self, visit: Visit) -> None:
        service = self._service(visit)
        version = self._version(visit, service)
        numbers = [version.number] if version else sorted(service.versions)
        visit.exchange.respond(200, _encode(oip.describe_model(service, list(map(str, numbers)))))

    def model_ready(self, visit: Visit) -> None:
        service = self._service(visit)
        version = self._version(visit, service)
        fine = service.ready
        if version is not None:
            fine = version.engine is None or version.engine.connected
        visit.exchange.respond(200 if fine else 503, _encode({"name": service.name, "ready": fine}))


ROUTES: dict[str, dict[str, Callable[[Site, Visit], None]]] = {
    "healthz": {"GET": Site.healthz},
    "v1/services": {"GET": Site.list_services},
    "v1/services/*": {"GET": Site.show_service},
    "v1/services/*/predict": {"POST": Site.predict},
    "v1/services/*/rehearse": {"POST": Site.rehearse},
    "v1/services/*/outcomes": {"POST": Site.outcomes},
    "v2": {"GET": Site.server},
    "v2/health/live": {"GET": Site.server_live},
    "v2/health/ready": {"GET": Site.server_ready},
    "v2/models/*": {"GET": Site.model},
    "v2/models/*/ready": {"GET": Site.model_ready},
    "v2/models/*/infer": {"POST": Site.infer},
}
