"""The console as Litestar routes: GET pages and fragments, POST forms, our own static files."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from importlib import metadata, resources, util
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Request, Router, get, post
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body
from litestar.response import File, Redirect, Response

from doorstep.console.asking import Ask, Query, Visit, answer, attempt
from doorstep.console.pages import PAGES, PageMaker, find
from doorstep.console.records import edited, served_in
from doorstep.console.render import Renderer
from doorstep.core.errors import DoorstepError, ForbiddenError, NotFoundError, UsageError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Clock, SystemClock
from doorstep.govern.history_csv import to_csv
from doorstep.govern.surface import History, ShowHistory
from doorstep.journal.surface import Erased, EraseSubject
from doorstep.kernel.http_status import headers_of, status_of
from doorstep.kernel.turns import Turns
from doorstep.register.surface import (
    FILE_BYTES_MAX,
    ApplyService,
    Rule,
    Service,
    ServiceDiff,
    ServiceRevision,
    ShowService,
)
from doorstep.release.surface import (
    Approvals,
    ApproveRevision,
    ApproveVersion,
    ChangeRelease,
    Release,
    Rollback,
    WithdrawApproval,
)

FORM_BYTES_MAX = 16 * 1024
FILE_FORM_BYTES_MAX = 3 * FILE_BYTES_MAX
"""A form sends a byte that is no letter as three."""
REASON_MAX = 500
CHANGES = ("pause", "resume", "promote")
FormData = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
AnyRequest = Request[Any, Any, Any]
Refuser = Callable[[AnyRequest, Any], Response[Any]]

# No inline script and no inline style anywhere: widths and colours are SVG attributes and classes.
# Plotly keeps to it too: our stylesheet carries the id of its own and says `no-inline-styles`, and
# the styles of its maps are taken to be there already (`_style_ids`).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: that makes browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGE_HEADERS = {**SECURITY_HEADERS, "cache-control": "no-store"}
ASSET_HEADERS = {**SECURITY_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
_ASSETS = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_PLOTLY = "plotly.min.js"
_STYLE_ID = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)')


def console_routes(
    sign_in: Callable[[AnyRequest], Visit],
    *,
    environment: str = "",
    clock: Clock | None = None,
) -> list[Router]:
    """The console's routes, to be mounted at `/`.

    sign_in: whose request it is, asked before anything else, so it may refuse who is not signed in;
    a form must bring the same form token. They ask for operations by name, which may block (each
    page and each change has threads of its own, so that slow pages keep no rollback waiting).
    environment: shown on every page.
    """
    files = _asset_files()
    chrome = {
        "environment": environment,
        "assets": _asset_urls(files),
        "plotly_style_ids": _style_ids(files[_PLOTLY]),
        "reason_max": REASON_MAX,
    }
    console = _Console(sign_in, Renderer(chrome), clock or SystemClock())
    handlers: list[HTTPRouteHandler] = [console.page(path, maker) for path, maker in PAGES]
    handlers += [console.change(action) for action in CHANGES]
    handlers += [
        console.rollback(),
        console.approve(),
        console.withdraw(),
        console.approve_revision(),
        console.erase(),
        console.search(),
        console.edit(),
        console.history(),
        console.history_csv(),
    ]
    handlers += [_static(files)]
    router = Router(
        path="/",
        route_handlers=handlers,
        exception_handlers=_refusals(console),
        request_max_body_size=FORM_BYTES_MAX,
        include_in_schema=False,
    )
    return [router]


def console_refusals(
    environment: str = "", clock: Clock | None = None
) -> dict[int | type[Exception], Refuser]:
    """Exception handlers that answer with a page, for addresses that no route of ours has."""
    chrome = {"environment": environment, "assets": _asset_urls(_asset_files())}
    nobody = _Console(_nobody, Renderer(chrome), clock or SystemClock())
    return _refusals(nobody)


def _nobody(_: AnyRequest) -> Visit:
    raise NotFoundError("no-such-operation", "nothing can be asked from an error page")


def _refusals(console: _Console) -> dict[int | type[Exception], Refuser]:
    # Litestar copies routers deeply, and a bound method with all that it holds: functions it keeps.
    return {
        DoorstepError: lambda request, error: console.refuse(error),  # noqa: ARG005
        HTTPException: lambda request, error: console.refuse_http(request, error),
    }


class _Console:
    def __init__(
        self,
        sign_in: Callable[[AnyRequest], Visit],
        renderer: Renderer,
        clock: Clock,
    ) -> None:
        self._sign_in = sign_in
        self._renderer = renderer
        self._clock = clock

    def page(self, path: str, maker: PageMaker) -> HTTPRouteHandler:
        turns = Turns(f"the page {path}")

        @get(path, name=f"console-{maker.__name__}")
        async def show(request: AnyRequest) -> Response[str]:
            return await turns.take(lambda: self._show(request, maker))

        return show

    def _show(self, request: AnyRequest, maker: PageMaker) -> Response[str]:
        # This first: it refuses who is not signed in before anything is asked.
        visit = self._sign_in(request)
        query = self._query(visit, request.path_params, dict(request.query_params.items()))
        return _html(self._renderer.page(maker(visit.ask, query), query), 200)

    def _query(self, visit: Visit, path: Mapping[str, Any], given: dict[str, str]) -> Query:
        now = self._clock.now()
        return Query(path=dict(path), given=given, now=now, csrf=visit.csrf, who=visit.who)

    def change(self, action: str) -> HTTPRouteHandler:
        name = f"release.{action}"
        turns = Turns(name)

        @post(f"/releases/{{release:str}}/{action}", status_code=303)
        async def change(request: AnyRequest, data: FormData) -> Redirect:
            ask, why = self._reason(request, data)
            asked = ChangeRelease(release=request.path_params["release"], why=why)
            return _see(await turns.take(lambda: answer(ask, name, asked, Release)))

        return change

    def rollback(self) -> HTTPRouteHandler:
        name = "service.rollback"
        turns = Turns(name)

        @post("/services/{service:str}/rollback", status_code=303)
        async def rollback(request: AnyRequest, data: FormData) -> Redirect:
            ask, why = self._reason(request, data)
            asked = Rollback(service=request.path_params["service"], why=why)
            return _see(await turns.take(lambda: answer(ask, name, asked, Release)))

        return rollback

    def approve(self) -> HTTPRouteHandler:
        return self._judged("approve", "version.approve", ApproveVersion)

    def withdraw(self) -> HTTPRouteHandler:
        return self._judged("withdraw", "version.withdraw", WithdrawApproval)

    def _judged(
        self, action: str, name: str, form: type[ApproveVersion] | type[WithdrawApproval]
    ) -> HTTPRouteHandler:
        turns = Turns(name)

        @post(f"/services/{{service:str}}/versions/{{number:int}}/{action}", status_code=303)
        async def judged(request: AnyRequest, data: FormData) -> Redirect:
            service, number = request.path_params["service"], request.path_params["number"]
            ask, why = self._reason(request, data)
            asked = form(version=f"{service}@{number}", why=why)
            await turns.take(lambda: answer(ask, name, asked, Approvals))
            where = f"/services/{quote(service, safe='')}/versions/{number}"
            return Redirect(where, status_code=303, headers=PAGE_HEADERS)

        return judged

    def approve_revision(self) -> HTTPRouteHandler:
        name = "service.approve"
        turns = Turns(name)

        @post("/services/{service:str}/revisions/{revision:int}/approve", status_code=303)
        async def approve_revision(request: AnyRequest, data: FormData) -> Redirect:
            service, revision = request.path_params["service"], request.path_params["revision"]
            ask, why = self._reason(request, data)
            asked = ApproveRevision(service=service, revision=revision, why=why)
            await turns.take(lambda: answer(ask, name, asked, Rule))
            where = f"/services/{quote(service, safe='')}"
            return Redirect(where, status_code=303, headers=PAGE_HEADERS)

        return approve_revision

    def edit(self) -> HTTPRouteHandler:
        turns = Turns("a service file")

        @post(
            "/services/{service:str}/file",
            status_code=200,
            request_max_body_size=FILE_FORM_BYTES_MAX,
        )
        async def edit(request: AnyRequest, data: FormData) -> Response[Any]:
            visit = self._require_form(request, data)
            return await turns.take(lambda: self._edit(visit, request, data))

        return edit

    def _edit(self, visit: Visit, request: AnyRequest, data: Mapping[str, str]) -> Response[Any]:
        """Say what the file would change; or apply it, if that was said of the revision that is
        in effect."""
        name = str(request.path_params["service"])
        of = answer(visit.ask, "service.show", ShowService(service=name), Service)
        # Browsers send the lines of a text area with CRLF, whatever they were.
        asked = ApplyService(file=data.get("file", "").replace("\r\n", "\n"))
        diff, why_not = attempt(visit.ask, "service.diff", asked, ServiceDiff)
        if diff is not None and diff.service != name:
            said = f"the file is of {diff.service}, and this page is of {name}"
            diff, why_not = None, UsageError("not-its-file", said)
        if data.get("do") == "apply" and diff and data.get("seen") == str(diff.revision):
            # Another one may be applied between these two questions.
            applying = msgspec.structs.replace(asked, over=diff.revision)
            answer(visit.ask, "service.apply", applying, ServiceRevision)
            where = f"/services/{quote(name, safe='')}#file"
            return Redirect(where, status_code=303, headers=PAGE_HEADERS)
        seen = data.get("seen", "")[:20] if data.get("do") == "apply" else ""
        page = edited(of, asked.file, diff, why_not, seen)
        return _html(self._renderer.page(page, self._query(visit, {}, {})), 200)

    def history(self) -> HTTPRouteHandler:
        @get("/history", sync_to_thread=False, name="console-history-of")
        def history(request: AnyRequest) -> Redirect:
            self._sign_in(request)  # refuses who is not signed in, as every page does
            given = {key: value[:200] for key, value in request.query_params.items() if value}
            service = given.pop("service", "")
            where = f"/services/{quote(service, safe='')}/history" if service else "/"
            query = f"?{urlencode(given)}" if service and given else ""
            return Redirect(where + query, status_code=303, headers=PAGE_HEADERS)

        return history

    def history_csv(self) -> HTTPRouteHandler:
        turns = Turns("the table of a history")

        @get("/services/{service:str}/history.csv", name="console-history-csv")
        async def history_csv(request: AnyRequest) -> Response[str]:
            visit = self._sign_in(request)
            asked = ShowHistory(service=str(request.path_params["service"]))
            shown = await turns.take(lambda: answer(visit.ask, "service.history", asked, History))
            query = self._query(visit, {}, dict(request.query_params.items()))
            shown = msgspec.structs.replace(shown, served=served_in(shown, query))
            named = {"content-disposition": f'attachment; filename="{shown.service}-history.csv"'}
            return Response(to_csv(shown), media_type="text/csv", headers=PAGE_HEADERS | named)

        return history_csv

    def erase(self) -> HTTPRouteHandler:
        name = "subject.erase"
        turns = Turns(name)

        @post("/predictions/{prediction:str}/erase", status_code=303)
        async def erase(request: AnyRequest, data: FormData) -> Redirect:
            ask, why = self._reason(request, data)
            prediction = request.path_params["prediction"]
            asked = EraseSubject(prediction=prediction, why=why)
            await turns.take(lambda: answer(ask, name, asked, Erased))
            where = f"/predictions/{quote(prediction, safe='')}"
            return Redirect(where, status_code=303, headers=PAGE_HEADERS)

        return erase

    def _require_form(self, request: AnyRequest, data: Mapping[str, str]) -> Visit:
        visit = self._sign_in(request)
        expected = visit.csrf
        brought = data.get("csrf", "")
        if not expected or not hmac.compare_digest(brought.encode(), expected.encode()):
            raise ForbiddenError(
                "bad-form-token",
                "the form was not made by this session, so nothing was changed",
                "reload the page and send the form again",
            )
        return visit

    def _reason(self, request: AnyRequest, data: Mapping[str, str]) -> tuple[Ask, str]:
        visit = self._require_form(request, data)
        why = data.get("why", "").strip()
        if not 0 < len(why) <= REASON_MAX:
            raise UsageError(
                "reason-missing",
                f"the reason has {len(why)} characters; expected 1 to {REASON_MAX}: it is kept in "
                "the ledger with the decision",
                "go back and say why in a sentence",
            )
        return visit.ask, why

    def search(self) -> HTTPRouteHandler:
        @get("/find", sync_to_thread=False, name="console-find")
        def search(request: AnyRequest) -> Redirect:
            self._sign_in(request)  # refuses who is not signed in, as every page does
            wanted = str(request.query_params.get("q", ""))[:200].strip()
            path = find(wanted).path
            where = f"/?q={quote(wanted)}" if path == "/" and wanted else path
            return Redirect(where, status_code=303, headers=PAGE_HEADERS)

        return search

    def refuse(self, error: DoorstepError) -> Response[str]:
        status = status_of(error.kind)
        shown = _html(self._renderer.error(error, status, self._clock.now()), status)
        shown.headers.update(headers_of(error.kind))
        return shown

    def refuse_http(self, request: AnyRequest, error: HTTPException) -> Response[str]:
        missing = error.status_code == 404
        kind = NotFoundError if missing else UsageError
        what = f"there is no page {request.url.path[:200]}" if missing else error.detail[:300]
        shown = kind("not-found" if missing else "bad-request", what, "")
        page = self._renderer.error(shown, error.status_code, self._clock.now())
        return _html(page, error.status_code)


def _html(text: str, status: int) -> Response[str]:
    return Response(text, media_type="text/html", status_code=status, headers=PAGE_HEADERS)


def _see(release: Release) -> Redirect:
    where = f"/releases/{quote(release.id, safe='')}"
    return Redirect(where, status_code=303, headers=PAGE_HEADERS)


def _asset_files() -> dict[str, Path]:
    own = Path(str(resources.files("doorstep.console"))) / "static"
    return {**{name: own / name for name in _ASSETS}, _PLOTLY: _plotly_folder() / _PLOTLY}


def _plotly_folder() -> Path:
    """Where the installed plotly keeps its script; found without importing plotly."""
    spec = util.find_spec("plotly")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / "package_data" if places else Path("plotly-is-not-installed")


def _style_ids(plotly: Path) -> tuple[str, ...]:
    """Ids of style elements that Plotly would make when it loads, unless the page has them.

    Our charts need none of them, and the content security policy would refuse them, loudly.
    """
    if not plotly.is_file():
        return ()
    return tuple(sorted(set(_STYLE_ID.findall(plotly.read_text(encoding="utf-8")))))


def _asset_urls(files: Mapping[str, Path]) -> dict[str, str]:
    """Addresses that change with the content, so that they may be cached for ever."""
    urls = {
        name: f"/static/{name}?v={digest_of(files[name].read_bytes())[:12]}" for name in _ASSETS
    }
    try:
        version = metadata.version("plotly")
    except metadata.PackageNotFoundError:
        version = "none"
    return {**urls, _PLOTLY: f"/static/{_PLOTLY}?v={version}"}


def _static(files: Mapping[str, Path]) -> HTTPRouteHandler:
    @get("/static/{name:str}", sync_to_thread=False, name="console-static")
    def static(request: AnyRequest) -> File:
        name = str(request.path_params["name"])
        path = files.get(name)
        if path is None or not path.is_file():
            raise NotFoundError("no-such-file", f"there is no file {name[:60]!r} here")
        kind = _ASSETS.get(name, "text/javascript")
        return File(path, media_type=kind, headers=ASSET_HEADERS, content_disposition_type="inline")

    return static
