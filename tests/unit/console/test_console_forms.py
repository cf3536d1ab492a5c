"""A change needs the session's token and a reason; it asks one operation and shows its result."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from doorstep.console import routes
from doorstep.console.asking import Visit
from doorstep.core import errors
from doorstep.journal.surface import EraseSubject
from doorstep.kernel.http_status import STATUS
from doorstep.register.surface import ApplyService
from doorstep.release.surface import ApproveRevision, ApproveVersion, ChangeRelease, Rollback
from fakes.console import CSRF, FakeDoorstep, make_app
from fakes.console_data import prediction
from fakes.console_releases import RELEASE_BACK, RELEASE_STEP

logging.getLogger("httpx").setLevel(logging.WARNING)


class Desk:
    def __init__(self) -> None:
        self.fake = FakeDoorstep()
        self.client: TestClient[Any] = TestClient(make_app(self.fake))

    def send(self, path: str, **fields: str) -> Any:
        self.fake.asked.clear()
        return self.client.post(path, data=fields, follow_redirects=False)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    with desk.client:
        yield desk


@pytest.mark.parametrize("action", ["pause", "promote"])
def test_a_release_is_changed_with_its_reason(desk: Desk, action: str) -> None:
    answer = desk.send(f"/releases/{RELEASE_STEP}/{action}", csrf=CSRF, why="  checked by hand ")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/releases/{RELEASE_STEP}"
    asked = ChangeRelease(release=RELEASE_STEP, why="checked by hand")
    assert desk.fake.asked == [(f"release.{action}", asked)]
    assert "checked by hand" in desk.client.get(answer.headers["location"]).text


def test_a_paused_release_offers_to_resume(desk: Desk) -> None:
    assert "/resume" not in desk.client.get(f"/releases/{RELEASE_STEP}").text
    desk.send(f"/releases/{RELEASE_STEP}/pause", csrf=CSRF, why="wait")
    page = desk.client.get(f"/releases/{RELEASE_STEP}").text
    assert f'action="/releases/{RELEASE_STEP}/resume"' in page
    assert "/pause" not in page
    desk.send(f"/releases/{RELEASE_STEP}/resume", csrf=CSRF, why="go on")
    assert desk.fake.release(RELEASE_STEP).state == "step"


def test_a_service_is_rolled_back(desk: Desk) -> None:
    answer = desk.send("/services/loans/rollback", csrf=CSRF, why="wrong reasons")
    assert answer.headers["location"] == f"/releases/{RELEASE_STEP}"
    asked = Rollback(service="loans", why="wrong reasons")
    assert desk.fake.asked == [("service.rollback", asked)]


def test_a_revision_that_asks_for_less_is_approved_on_the_page_of_the_service(desk: Desk) -> None:
    page = desk.client.get("/services/loans").text
    assert "Revision 9 asks fewer people to approve" in page
    assert "(mira did)" in page
    where = "/services/loans/revisions/9/approve"
    assert f'action="{where}"' in page
    answer = desk.send(where, csrf=CSRF, why="a pilot")
    assert (answer.status_code, answer.headers["location"]) == (303, "/services/loans")
    asked = ApproveRevision(service="loans", revision=9, why="a pilot")
    assert desk.fake.asked == [("service.approve", asked)]


def test_the_overview_lists_what_waits_for_the_yes_of_people(desk: Desk) -> None:
    page = " ".join(desk.client.get("/").text.split())
    assert "loans@4, registered by ada, passed its gates and waits for the yes of 2 people" in page
    assert 'href="/services/loans/versions/4">Look and approve' in page
    assert "Revision 9, applied by jonas, loosens who must say yes" in page
    assert "waits for the yes of 1 other person." in page, "mira gave hers"
    assert 'href="/services/loans#file">Look and approve' in page


def test_before_a_looser_rule_is_applied_it_is_said_that_people_must_agree(desk: Desk) -> None:
    said = "holds only once 2 people other than you said yes"
    looser = FILE + "approve: none\r\n"
    for file, is_said in ((FILE, False), (looser, True)):
        shown = desk.send("/services/loans/file", csrf=CSRF, do="diff", file=file)
        assert (said in shown.text) is is_said


def test_a_version_that_passed_its_gates_is_approved(desk: Desk) -> None:
    page = "/services/loans/versions/4"
    assert f'action="{page}/approve"' in desk.client.get(page).text
    assert '/approve"' not in desk.client.get("/services/loans/versions/3").text, "it serves"
    answer = desk.send(f"{page}/approve", csrf=CSRF, why="seen <b>")
    assert (answer.status_code, answer.headers["location"]) == (303, page)
    asked = ApproveVersion(version="loans@4", why="seen <b>")
    assert desk.fake.asked == [("version.approve", asked)]
    assert desk.send(f"{page}/approve", csrf="wrong", why="seen").status_code == 403
    assert desk.fake.asked == []


def test_a_person_is_erased_by_their_prediction_where_it_is_sealed(desk: Desk) -> None:
    sealed, other = (prediction(desk.fake.begun, place).id for place in (0, 1))
    page = f"/predictions/{sealed}"
    assert "/erase" not in desk.client.get(f"/predictions/{other}").text
    assert f'action="{page}/erase"' in desk.client.get(page).text
    answer = desk.send(f"{page}/erase", csrf=CSRF, why="request 7")
    assert (answer.status_code, answer.headers["location"]) == (303, page)
    assert desk.fake.asked == [("subject.erase", EraseSubject(prediction=sealed, why="request 7"))]
    shown = desk.client.get(page).text
    assert "nothing opens them any more" in shown
    assert "/erase" not in shown
    assert desk.send(f"{page}/erase", csrf="wrong", why="request 7").status_code == 403
    assert desk.fake.asked == []


@pytest.mark.parametrize("token", ["", "wrong", CSRF + " ", CSRF[:-1], "ü"])
def test_a_form_of_another_session_changes_nothing(desk: Desk, token: str) -> None:
    answer = desk.send(f"/releases/{RELEASE_STEP}/promote", csrf=token, why="because")
    assert answer.status_code == 403
    assert desk.fake.asked == []


def test_a_form_without_a_token_changes_nothing(desk: Desk) -> None:
    answer = desk.send("/services/loans/rollback", why="because")
    assert answer.status_code == 403
    assert desk.fake.asked == []


@pytest.mark.parametrize(
    ("why", "status"),
    [("", 400), ("   ", 400), ("a", 303), ("a" * 500, 303), ("a" * 501, 400)],
)
def test_a_reason_is_needed_and_is_short(desk: Desk, why: str, status: int) -> None:
    answer = desk.send(f"/releases/{RELEASE_STEP}/pause", csrf=CSRF, why=why)
    assert answer.status_code == status


def test_a_page_never_changes_anything_by_being_opened(desk: Desk) -> None:
    for action in routes.CHANGES:
        answer = desk.client.get(f"/releases/{RELEASE_STEP}/{action}")
        assert answer.status_code in (404, 405)
    assert desk.fake.asked == []


def test_what_the_operation_refuses_is_shown_as_it_says(desk: Desk) -> None:
    answer = desk.send(f"/releases/{RELEASE_BACK}/pause", csrf=CSRF, why="late")
    assert answer.status_code == 409
    assert "only a running one can be changed" in answer.text
    assert "doorstep release show loans" in answer.text


def test_a_large_form_is_refused_before_it_is_read(desk: Desk) -> None:
    body = "why=" + "a" * routes.FORM_BYTES_MAX
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = desk.client.post("/services/loans/rollback", content=body, headers=headers)
    assert answer.status_code == 413
    assert desk.fake.asked == []


def test_every_form_of_a_page_carries_the_token(desk: Desk) -> None:
    sealed = prediction(desk.fake.begun, 0).id
    loans = "/services/loans"
    for path in (
        *(f"/releases/{RELEASE_STEP}", loans, f"{loans}/file", f"{loans}/versions/4"),
        f"/predictions/{sealed}",
    ):
        page = desk.client.get(path).text
        assert page.count('method="post"') == page.count(f'name="csrf" value="{CSRF}"') > 0


def test_every_kind_of_error_has_its_status() -> None:
    kinds = {one.kind for one in errors.DoorstepError.__subclasses__()}
    assert kinds == set(STATUS)


def test_who_is_not_signed_in_is_told_so_before_anything_is_asked() -> None:
    fake = FakeDoorstep()

    def nobody(request: Any) -> Visit:
        raise errors.SignInError("not-signed-in", "nobody is signed in", "doorstep console")

    app = Litestar(route_handlers=list(routes.console_routes(nobody)))
    with TestClient(app) as client:
        for path in ("/", "/services/loans", "/ledger", f"/releases/{RELEASE_STEP}"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert "doorstep console" in answer.text
        sent = client.post("/services/loans/rollback", data={"csrf": CSRF, "why": "because"})
        assert sent.status_code == 401
    assert fake.asked == []


def addresses(app: Litestar, method: str) -> list[str]:
    """Every address of a method, but the static files, with something for each of its names."""
    found = [one.path for one in app.routes if method in getattr(one, "methods", ())]
    filled = [re.sub(r"{\w+:int}", "7", one).replace("{service:str}", "loans") for one in found]
    others = [re.sub(r"{\w+:str}", RELEASE_STEP, one) for one in filled]
    return [one for one in others if not one.startswith("/static/")]


def test_no_form_and_no_page_at_all_is_for_who_is_not_signed_in() -> None:
    def nobody(request: Any) -> Visit:
        raise errors.SignInError("not-signed-in", "nobody is signed in", "doorstep console")

    handlers = list(routes.console_routes(nobody))
    app = Litestar(route_handlers=handlers, openapi_config=None)
    pages, forms = addresses(app, "GET"), addresses(app, "POST")
    assert len(pages) >= 14 and len(forms) >= 8
    with TestClient(app) as client:
        told = {one: client.get(one, follow_redirects=False).status_code for one in pages}
        sent = {one: client.post(one, data=SENT).status_code for one in forms}
    assert set(told.values()) == set(sent.values()) == {401}, (told, sent)


def test_no_form_at_all_is_taken_with_the_token_of_another_session(desk: Desk) -> None:
    forms = addresses(desk.client.app, "POST")
    sent = {one: desk.send(one, **SENT | {"csrf": "another"}).status_code for one in forms}
    assert set(sent.values()) == {403}, sent
    assert desk.fake.asked == []


SENT = {"csrf": CSRF, "why": "because", "file": "service: loans", "do": "apply", "seen": "9"}


def test_taking_a_first_version_back_says_that_nobody_serves_then() -> None:
    with TestClient(make_app(FakeDoorstep("empty"))) as client:
        page = client.get(f"/releases/{RELEASE_STEP}").text
        assert "No version of loans serves then: callers get its constant fallback" in page
        assert "/services/loans/rollback" in page
        assert "/rollback" not in client.get("/services/triage").text


FILE = "doorstep: 1\r\nservice: loans\r\ngates: {quality: [auc >= 0.5]}\r\n"


def test_a_service_file_is_applied_only_after_its_difference_was_seen(desk: Desk) -> None:
    where = "/services/loans/file"
    shown = desk.send(where, csrf=CSRF, do="diff", file=FILE)
    assert "loosens what a version must show" in shown.text
    assert "Apply it as revision 10" in shown.text
    assert "service.apply" not in dict(desk.fake.asked)
    early = desk.send(where, csrf=CSRF, do="apply", seen="8", file=FILE)
    assert (early.status_code, "service.apply" in dict(desk.fake.asked)) == (200, False)
    assert "You saw what it changes in revision 8, and revision 9 is in effect" in early.text
    assert "You saw" not in shown.text
    done = desk.send(where, csrf=CSRF, do="apply", seen="9", file=FILE)
    assert (done.status_code, done.headers["location"]) == (303, "/services/loans#file")
    assert dict(desk.fake.asked)["service.apply"] == ApplyService(
        file=FILE.replace("\r\n", "\n"), over=9
    )


def test_of_very_many_changes_none_is_left_out_in_silence(desk: Desk) -> None:
    file = "service: loans\n" + "".join(f"# line {at}\n" for at in range(203))
    shown = desk.send("/services/loans/file", csrf=CSRF, do="diff", file=file).text
    assert shown.count("with the next gate run") == 200
    assert "and 3 more keys" in shown


@pytest.mark.parametrize(
    ("file", "said"),
    [("service: fraud\n", "the file is of fraud"), ("service: loans\nnonsense", "has a problem")],
)
def test_a_file_that_cannot_be_applied_is_kept_and_says_why(
    desk: Desk, file: str, said: str
) -> None:
    answer = desk.send("/services/loans/file", csrf=CSRF, do="apply", seen="9", file=file)
    assert answer.status_code == 200
    assert said in answer.text and file.strip() in answer.text
    assert "service.apply" not in dict(desk.fake.asked)


def test_a_service_file_needs_the_form_token(desk: Desk) -> None:
    answer = desk.send("/services/loans/file", csrf="another", do="apply", seen="9", file=FILE)
    assert answer.status_code == 403
    assert desk.fake.asked == []
