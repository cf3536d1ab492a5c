"""Who may ask what: every route but a few named ones needs the token or a session."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from litestar.routes import HTTPRoute

OPEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/sign-in"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/static/{name:str}"),
}
SAMPLES = {"digest:str": "0" * 64, "number:int": "1", "revision:int": "1"}


def routes(api) -> Iterator[tuple[str, str]]:
    for route in api.client.app.routes:
        if isinstance(route, HTTPRoute):
            for method in route.methods:
                yield str(method), route.path


def address(path: str) -> str:
    return re.sub(r"\{([^}]+)\}", lambda match: SAMPLES.get(match[1], "x"), path)


def test_every_route_but_the_named_ones_refuses_a_stranger(api):
    seen = {}
    for method, path in routes(api):
        if method == "OPTIONS" or (method, path) in OPEN:
            continue
        answer = api.client.request(method, address(path), follow_redirects=False)
        seen[method, path] = answer.status_code
    strange = {at: status for at, status in seen.items() if status != 401}
    # A form is read before its session is looked for; nothing of it is acted on.
    assert {at for at in strange if at[0] == "GET"} == set()
    assert set(strange.values()) <= {400}
    assert len(seen) > len(api.serving.control.operations)


def test_the_open_routes_are_there_and_say_nothing_of_what_is_served(api):
    assert set(routes(api)) >= OPEN
    assert api.client.get("/healthz").json() == {"status": "ok"}
    assert api.client.get("/readyz").status_code == 503


def test_a_form_of_a_stranger_is_refused_with_a_well_formed_body(api):
    form = {"csrf": "0" * 64, "why": "because"}
    for path in ("/services/loans/rollback", "/releases/x/pause"):
        assert api.client.post(path, data=form).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer é",
    ],
)
def test_only_the_whole_token_is_let_in(api, header):
    given = header.replace("{token}", api.token).encode("latin-1")
    answer = api.client.post("/api/v1/service/list", headers=[(b"authorization", given)])
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "not-signed-in"


def test_a_session_is_no_token(api):
    cookie = sign_in(api)
    answer = api.client.post("/api/v1/service/list", headers=carrying(api, cookie))
    assert answer.status_code == 401


def test_a_token_is_no_session(api):
    assert api.client.get("/", headers=api.signed).status_code == 401


def carrying(api, cookie: str) -> dict[str, str]:
    return {"cookie": f"{api.serving.sessions.cookie}={cookie}"}


def sign_in(api) -> str:
    code = api.serving.invite()
    answer = api.client.get(f"/sign-in?code={code}", follow_redirects=False)
    assert answer.status_code in (301, 302, 303, 307)
    cookie = answer.cookies[api.serving.sessions.cookie]
    api.client.cookies.clear()
    return cookie


def test_an_invitation_signs_one_browser_in_once(api):
    code = api.serving.invite()
    first = api.client.get(f"/sign-in?code={code}", follow_redirects=False)
    again = api.client.get(f"/sign-in?code={code}", follow_redirects=False)
    api.client.cookies.clear()
    assert api.serving.sessions.cookie in first.cookies
    assert again.status_code == 401
    assert api.serving.sessions.cookie not in again.cookies


def test_the_cookie_is_not_for_scripts_nor_for_other_sites(api):
    code = api.serving.invite()
    said = api.client.get(f"/sign-in?code={code}", follow_redirects=False).headers["set-cookie"]
    api.client.cookies.clear()
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in said.split(";")}


def test_the_console_is_shown_to_a_session_and_to_nobody_else(api):
    cookie = sign_in(api)
    assert api.client.get("/", headers=carrying(api, cookie)).status_code == 200
    assert api.client.get("/").status_code == 401
    assert api.client.get("/", headers=carrying(api, "x")).status_code == 401


def test_a_form_needs_the_token_of_its_own_session(api):
    mine, other = sign_in(api), sign_in(api)
    sessions = api.serving.sessions
    statuses = {}
    for csrf in ("", "0" * 64, sessions.csrf(other), sessions.csrf(mine), "é"):
        answer = api.client.post(
            "/services/loans/rollback",
            data={"csrf": csrf, "why": "because"},
            headers=carrying(api, mine),
            follow_redirects=False,
        )
        statuses[csrf] = answer.status_code
    # 409: understood; there is nothing to roll back to.
    assert statuses.pop(sessions.csrf(mine)) == 409
    assert set(statuses.values()) == {403}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7070", 200),
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("[::1]:7070", 200),
        ("evil.example", 421),
        ("evil.example:7070", 421),
        ("127.0.0.1.evil.example:7070", 421),
        ("127.0.0.1@evil.example", 421),
        ("", 421),
        ("localhost:7070:7070", 421),
    ],
)
def test_only_our_own_host_names_are_answered(api, host, status):
    answer = api.client.get("/healthz", headers={"host": host})
    assert answer.status_code == status


def test_no_route_answers_another_origins_preflight_with_permission(api):
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = api.client.options("/api/v1/service/list", headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control-allow-origin")]


def test_unknown_paths_and_methods_are_refused_without_a_fault(api):
    for method, path in (("GET", "/api/v1/nope"), ("GET", "/api/v1/service/list"), ("PATCH", "/")):
        assert api.client.request(method, path, headers=api.signed).status_code in (401, 404, 405)


BROWSER = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/", "/services/loans", "/sign-in?code=used", "/sign-in"])
def test_a_browser_that_is_not_signed_in_reads_the_next_command_on_a_page(api, path):
    answer = api.client.get(path, headers=BROWSER)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "doorstep console" in answer.text


def test_a_browser_at_an_unknown_address_gets_a_page(api):
    answer = api.client.get("/nope", headers=BROWSER)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_scripts_are_refused_in_json(api, accept):
    answer = api.client.get("/sign-in?code=used", headers={"accept": accept})
    assert answer.json()["error"]["code"] == "bad-invitation"


def test_the_api_refuses_in_json_whoever_asks(api):
    for path in ("/api/v1/nope", "/api/v1/ledger/export"):
        assert api.client.get(path, headers=BROWSER).json()["error"]["code"]
