"""Who answers a request: the services that this worker holds now, reached by every protocol.

A protocol is a skin (`visit.Skin`): a table of routes whose handlers read a body into rows and hand
them to `submit`, and a codec that writes the answer. All of them share this one way in.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Container, Sequence
from typing import Any

import msgspec

from doorstep.core.errors import DoorstepError, InputError, NotFoundError, OverloadedError
from doorstep.core.plan import ApiKey
from doorstep.core.record import Kind
from doorstep.serve import invocations, jsonrows, native, oip, oip_grpc, v1models
from doorstep.serve.admission import Admission, WireError
from doorstep.serve.call import Call, Codec, Exchange
from doorstep.serve.cells import CellWriter
from doorstep.serve.counters import REFUSED, REQUESTS
from doorstep.serve.http import RETRY, Head
from doorstep.serve.idempotency import HEADER, IdempotencyKeys, KeyedExchange
from doorstep.serve.observe import Seen
from doorstep.serve.path import Path
from doorstep.serve.record import Recorder
from doorstep.serve.requestid import RequestIds
from doorstep.serve.router import Router
from doorstep.serve.rows import Parsed
from doorstep.serve.service import Service
from doorstep.serve.version import Version
from doorstep.serve.visit import Handler, Skin, Visit

SKINS: tuple[Skin, ...] = (
    native.SKIN, oip.SKIN, oip_grpc.SKIN, v1models.SKIN, invocations.SKIN, jsonrows.TORCHSERVE,
    jsonrows.AZURE,
)  # fmt: skip
PLACES_KEPT = 4096
PLACE_URL_BYTES_MAX = 256
"""Of a URL whose place is remembered; a longer one is found again each time."""
_ROUTER: Router[tuple[Codec, Handler, bool]] = Router(
    [
        {
            path: {
                method: (skin.codec, handler, skin.is_probe(path, method))
                for method, handler in handlers.items()
            }
            for path, handlers in skin.routes.items()
        }
        for skin in SKINS
    ]
)
_STATUS = {
    "bad-json": 400,
    "rehearsal-in-production": 403,
    "unknown-service": 404,
    "unknown-version": 404,
    "unknown-route": 404,
    "bad-accept": 406,
    "bad-media": 415,
}
LIVE = int(Kind.LIVE)
_encode = msgspec.json.Encoder().encode


class Place(msgspec.Struct, frozen=True):
    """A route that was found: whose it is, and what its path names."""

    codec: Codec
    handler: Handler
    is_probe: bool
    service: str
    version: str


class Site:
    """Answers requests from the services that this worker holds now."""

    def __init__(
        self, path: Path, recorder: Recorder, cells: CellWriter, *, guarded: bool = False
    ) -> None:
        self._path = path
        self._admission = Admission(guarded=guarded)
        self._cells = cells
        self._ids = RequestIds()
        self._places: dict[tuple[bytes, bytes], Place] = {}
        self.recorder = recorder
        self.keys: IdempotencyKeys | None = None
        self.erased: Container[str] = ()
        self.services: dict[str, Service] = {}
        self.draining = False
        self.live = False
        self.environment = ""
        self._own = jsonrows.vertex_at("", "")

    def listen_at(self, predict_route: str, health_route: str) -> None:
        """Answer also at these paths, as Vertex AI wants it; they come before all others."""
        self._own = jsonrows.vertex_at(predict_route, health_route)

    def swap(
        self, services: dict[str, Service], keys: Sequence[ApiKey] = (), quota: float = 1.0
    ) -> None:
        """Serve these from now on; what is under way ends with what it began with. keys, quota:
        see `Admission.swap`."""
        self.services = services
        self._path.breakers.keep(
            {(name, number) for name, one in services.items() for number in one.versions}
        )
        self._admission.swap(keys, services, quota)
        self.live = True

    @property
    def serving(self) -> bool:
        return self.live and not self.draining

    def handle(self, exchange: Exchange, head: Head, body: bytes) -> None:
        """Answer one request, now or in a later turn of the loop. Raises nothing."""
        place: Place | None = head.place
        if place is None:
            try:
                place = self._places.get((head.method, head.url)) or self._find(head)
            except DoorstepError as error:
                return self._refuse(exchange, head, self._codec_of(head.url), error, "")
            head.place = place
        visit = Visit(exchange, head, body, place.codec, place.service, place.version)
        try:
            if not place.is_probe and not self._admission.is_idle:
                named = head.fields.get(b"doorstep-service", b"").decode("latin-1")
                self._admission.admit(visit, place.service or named)
            return place.handler(self, visit)
        except DoorstepError as error:
            return self._refuse(exchange, head, place.codec, error, visit.service)
        except Exception:  # noqa: BLE001  the edge: the caller gets an id, we get the trace
            return self._fail(exchange, head, place.codec)

    def refusal(self, url: bytes, code: str, message: str) -> bytes:
        """The body of an answer to a request that never became one."""
        return self._codec_of(url).refusal(code, message, "", "")

    # -- what handlers use

    def service(self, name: str) -> Service:
        """Raises: NotFoundError (`unknown-service`)."""
        found = self.services.get(name)
        if found is None:
            raise NotFoundError(
                "unknown-service", f"no service {name[:63]!r} here", f"services: {self._names()}"
            )
        return found

    def _names(self) -> str:
        shown = sorted(one for one in self.services if not self._admission.wants_key(one))
        return ", ".join(shown[:20]) or "none that are shown to everybody"

    def only_service(self, visit: Visit) -> Service:
        """The service of a path that names none: the one that the header Doorstep-Service names, or
        the only one. Raises: NotFoundError, InputError (`which-service`)."""
        name = visit.head.fields.get(b"doorstep-service", b"").decode("latin-1")
        if not name and len(self.services) > 1:
            raise InputError(
                "which-service",
                f"this path names no service, and {len(self.services)} are here",
                f"send the header Doorstep-Service with one of: {self._names()}",
            )
        visit.service = name or next(iter(self.services), "")
        found = self.service(visit.service)
        self._admit(visit, visit.service)  # before its rows are read: a refusal names its fields
        return found

    def visible(self, visit: Visit) -> list[Service]:
        """The services that a list may name to this caller."""
        return [
            one for name, one in sorted(self.services.items()) if self._admission.sees(visit, name)
        ]

    def version(self, service: Service, name: str) -> Version | None:
        """The version that a path names, by number or as `champion` or `challenger`; None if it
        names none. Raises: NotFoundError (`unknown-version`)."""
        if not name:
            return None
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else 0
        if name == "champion":
            number = service.plan.champion or 0
        elif name == "challenger":
            number = service.release.challenger if service.release else 0
        found = service.versions.get(number)
        if found is None:
            raise NotFoundError(
                "unknown-version",
                f"{service.name}@{name[:20]} is not resident here",
                f"resident: {', '.join(map(str, sorted(service.versions)))}",
            )
        return found

    def submit(
        self, visit: Visit, service: Service, parsed: Parsed, *, extra: Any = None,
        pinned: Version | None = None, kind: int = LIVE,
    ) -> None:  # fmt: skip
        """Have these rows answered. extra, pinned, kind: see `Call`.
        Raises: OverloadedError (`overloaded`), and what `Admission.admit` raises."""
        if not self._admission.is_idle:
            self._admit(visit, service.name)
        request, name = self._ids.next()
        exchange, path = visit.exchange, self._path
        if HEADER in visit.head.fields and self.keys is not None:
            taken = self.keys.take(visit, name)
            if taken is None:
                return self._count(visit.head, visit.codec, service.name, 200, name)
            exchange = taken
        call = Call(exchange, visit.codec, service, parsed, request, name, extra, kind, pinned)
        if path.observers:
            call.key = visit.key.id if visit.key else ""
            call.trace = visit.head.fields.get(b"traceparent", b"")
        if not path.submit(call):
            if isinstance(exchange, KeyedExchange):
                exchange.release()
            raise OverloadedError(
                "overloaded", f"{path.in_flight} requests are already under way here"
            )
        return None

    def reply(self, visit: Visit, found: object, status: int = 200, headers: bytes = b"") -> None:
        """Answer with this as JSON."""
        visit.exchange.respond(status, _encode(found), headers)

    def new_id(self) -> str:
        """An id for a request that is no prediction."""
        return self._ids.next()[1]

    # -- ours

    def _find(self, head: Head) -> Place:
        """Raises: NotFoundError (`unknown-route`), WireError (`bad-method`)."""
        path = head.url.partition(b"?")[0].decode("latin-1")
        method = "GET" if head.method == b"HEAD" else head.method.decode("latin-1")
        own = self._own.routes.get(path, {}).get(method)
        if own is not None:
            return Place(self._own.codec, own, self._own.is_probe(path, method), "", "")
        found = _ROUTER.find(path)
        if found is None:
            raise NotFoundError("unknown-route", f"nothing is at {path[:100]}")
        if method not in found.handlers:
            allowed = ", ".join(found.handlers)
            raise WireError(
                405, "bad-method", f"expected {allowed}", headers=f"allow: {allowed}\r\n".encode()
            )
        place = Place(
            *found.handlers[method], found.names.get("service", ""), found.names.get("version", "")
        )
        if len(head.url) <= PLACE_URL_BYTES_MAX:
            if len(self._places) >= PLACES_KEPT:
                self._places.clear()
            self._places[head.method, head.url] = place
        return place

    def _admit(self, visit: Visit, service: str) -> None:
        """Where a protocol finds its service by something else than its path."""
        if visit.admitted != service and not self._admission.is_idle:
            self._admission.admit(visit, service)

    def _refuse(
        self, exchange: Exchange, head: Head, codec: Codec, error: DoorstepError, service: str
    ) -> None:
        name = self.new_id()
        headers = f"doorstep-request-id: {name}\r\n".encode()
        reason = "input"
        if isinstance(error, OverloadedError):
            status, headers, reason = 503, headers + RETRY, "overload"
        elif isinstance(error, WireError):
            status, headers, reason = error.status, headers + error.headers, error.reason
        else:
            status = _STATUS.get(error.code, codec.bad_input)
        self._count(head, codec, service, status, name)
        self._cells.counters.add(REFUSED, service if service in self.services else "", reason)
        exchange.respond(
            status, codec.refusal(error.code, error.message, error.hint, name), headers
        )

    def _fail(self, exchange: Exchange, head: Head, codec: Codec) -> None:
        name = self.new_id()
        print(
            f"front: request {name} failed\n{traceback.format_exc()}", file=sys.stderr, flush=True
        )
        headers = f"doorstep-request-id: {name}\r\n".encode()
        body = codec.refusal("internal", "this is our fault; it was logged", "", name)
        self._count(head, codec, "", 500, name)
        exchange.respond(500, body, headers)

    def _codec_of(self, url: bytes) -> Codec:
        """Whose words a request at this path is refused in: the skin with the longest prefix."""
        path = url.partition(b"?")[0] + b"/"
        prefixes = [
            (len(prefix), skin.codec)
            for skin in (*SKINS, self._own)
            for prefix in skin.prefixes
            if path.startswith(prefix.rstrip(b"/") + b"/")
        ]
        return max(prefixes, key=lambda one: one[0])[1] if prefixes else native.SKIN.codec

    def _count(self, head: Head, codec: Codec, service: str, status: int, request: str) -> None:
        """Count what came to no version. Names that callers make up are not kept."""
        known, protocol = service if service in self.services else "", codec.protocol
        self._cells.counters.add(REQUESTS, known, "", protocol, f"{status // 100}xx")
        if self._path.observers:
            at, trace = time.time_ns() // 1000, head.fields.get(b"traceparent", b"")
            seen = Seen(at, 0, known, "", protocol, status, 0, request, trace=trace)
            for one in self._path.observers:
                one.note(seen)
