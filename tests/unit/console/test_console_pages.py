"""Every page of the route table: what it shows, what it escapes, what it says when empty."""

from __future__ import annotations

import html
import html.parser
import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urldefrag

import pytest
from litestar.testing import TestClient

from doorstep.console import records, routes
from fakes import console_data, console_releases
from fakes.console import HOSTILE, FakeDoorstep, Variant, make_app

logging.getLogger("httpx").setLevel(logging.WARNING)
PAGE_BYTES_MAX = 200_000
RELEASE_ID = "01a2225dc2a7702cb905e552437bc366"
Client = TestClient[Any]


class Seen(html.parser.HTMLParser):
    """What a browser would act on: elements with attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.text).append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def addresses(self) -> list[str]:
        names = ("href", "src", "action", "data-plotly")
        return [found[name] for _, found in self.elements for name in names if name in found]


def paths(fake: FakeDoorstep) -> dict[str, str]:
    return {
        "overview": "/",
        "overview-filtered": "/?q=lo",
        "service": "/services/loans",
        "service-week": "/services/loans?range=7d",
        "service-new": "/services/triage",
        "version": "/services/loans/versions/4",
        "monitor": "/services/loans/monitor",
        "monitor-new": "/services/triage/monitor",
        "predictions": "/services/loans/predictions",
        "predictions-filtered": "/services/loans/predictions?version=2&status=ok&answer=good"
        "&kind=live&from=2020-01-01T00:00&to=2100-01-01T00:00",
        "history": "/services/loans/history",
        "history-then": "/services/loans/history?at=2026-01-01T00:00&start=1",
        "history-filtered": "/services/loans/history?role=champion&from=2020-01-01T00:00",
        "history-new": "/services/triage/history",
        "file": "/services/loans/file",
        "prediction": f"/predictions/{console_data.prediction(fake.begun, 25).id}",
        "prediction-failed": f"/predictions/{console_data.prediction(fake.begun, 5).id}",
        "release-step": f"/releases/{console_releases.RELEASE_STEP}",
        "release-back": f"/releases/{console_releases.RELEASE_BACK}",
        "release-done": f"/releases/{console_releases.RELEASE_DONE}",
        "release-again": f"/releases/{console_releases.RELEASE_BACK}?recompute=1",
        "ledger": "/ledger",
        "ledger-verified": "/ledger?verify=1&kind=release.",
        "installation": "/installation",
    }


SILENT = ("ledger-verified", "monitor-new", "history-new")
NAMES = tuple(paths(FakeDoorstep()))
EMPTY_NAMES = tuple(name for name in NAMES if name != "file" and not name.startswith("prediction-"))


class Site:
    def __init__(self, variant: Variant) -> None:
        self.fake = FakeDoorstep(variant)
        self.client: Client = TestClient(make_app(self.fake), raise_server_exceptions=False)

    def get(self, name: str) -> Any:
        return self.client.get(paths(self.fake)[name])


@pytest.fixture(scope="module")
def normal() -> Iterator[Site]:
    site = Site("normal")
    with site.client:
        yield site


@pytest.fixture(scope="module")
def hostile() -> Iterator[Site]:
    site = Site("hostile")
    with site.client:
        yield site


@pytest.fixture(scope="module")
def empty() -> Iterator[Site]:
    site = Site("empty")
    with site.client:
        yield site


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_small_and_carries_the_security_headers(normal: Site, name: str) -> None:
    answer = normal.get(name)
    assert answer.status_code == 200
    assert len(answer.content) < PAGE_BYTES_MAX
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for header, value in routes.PAGE_HEADERS.items():
        assert answer.headers[header] == value


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_nothing_of_other_hosts_and_has_no_inline_script_or_style(
    normal: Site, name: str
) -> None:
    seen = Seen(normal.get(name).text)
    assert all(one.startswith("/") and not one.startswith("//") for one in inner(seen))
    for tag, found in seen.elements:
        assert "style" not in found
        assert tag != "style"
        assert not any(attribute.startswith("on") for attribute in found)
        if tag == "script" and "src" not in found:
            assert found["type"] == "application/json"


def inner(seen: Seen) -> list[str]:
    return [one for one in seen.addresses() if not one.startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_values_are_only_ever_text(hostile: Site, name: str) -> None:
    answer = hostile.get(name)
    assert answer.status_code == 200
    seen = Seen(answer.text)
    scripts = [found for tag, found in seen.elements if tag == "script"]
    assert all(
        found.get("src", "/static/").startswith("/static/")
        and ("src" in found or found["type"] == "application/json")
        for found in scripts
    )
    assert not [tag for tag, _ in seen.elements if tag == "img"]
    assert not [one for _, found in seen.elements for one in found if one.startswith("on")]
    assert "alert(1)" in seen.words or name in SILENT
    assert "507522578611303" not in answer.text
    assert "nan" not in seen.words.lower().split()
    places = ("d", "x", "y", "cx", "width", "height")
    assert not [
        found for _, found in seen.elements for one in places if "nan" in found.get(one, "")
    ]


def test_failures_that_another_version_answered_are_no_errors_and_are_shown(normal: Site) -> None:
    service, release = Seen(normal.get("service").text).words, normal.get("release-back")
    assert "311 failed, another answered" in service
    assert "Failed of assigned, last 1h" in service
    assert "46 failed, the champion answered" in Seen(release.text).words


def test_the_timeline_marks_what_releases_did_and_not_only_that_they_began(normal: Site) -> None:
    (figure,) = [text for text in Seen(normal.get("service").text).scripts if text.startswith("{")]
    assert "loans@4 starts" in figure
    assert "loans@4 advanced" in figure


def test_a_killed_version_needs_a_person(normal: Site) -> None:
    attention = Seen(normal.client.get("/", params={"fragment": "attention"}).text).words
    assert "killed recommend recommend@3 was killed by ada" in attention


def test_a_first_version_bakes_and_was_in_no_shadow(empty: Site) -> None:
    seen = Seen(empty.get("release-step").text).words
    assert "bake" in seen
    assert "shadow" not in seen.split("Champion")[0]


def test_every_number_of_the_monitor_page_names_its_own_window(normal: Site) -> None:
    seen = Seen(normal.get("monitor").text).words
    due = "Quality 7 d that ended 30 d ago: 20,934 outcomes , known for 41.2 % of the predictions"
    assert due in seen
    assert "What cases were worth EUR, of the same predictions; 95 % interval" in seen
    assert "loans@2 all days 20,934 41.20 39.00 – 43.40 862,000.00 816,000.00 – 908" in seen
    assert "loans@2 2026-10-20 1 7.50 7.50" in seen
    assert re.search(r"Columns against their reference 1 h from [-0-9: ]+ UTC, .*50,812 rows", seen)
    assert "Errors, 1 h" in Seen(normal.get("service").text).words


def test_chart_data_cannot_end_its_script(hostile: Site) -> None:
    seen = Seen(hostile.get("service").text)
    figures = [text for text in seen.scripts if text.startswith("{")]
    assert len(figures) == 1
    assert "<" not in figures[0]
    assert json.loads(figures[0])["data"]


def test_every_link_leads_to_a_page_and_to_a_place_on_it(normal: Site) -> None:
    waiting, pages = ["/"], dict[str, Seen]()
    targets = set[tuple[str, str]]()
    while waiting:
        here = waiting.pop()
        if here in pages:
            continue
        answer = normal.client.get(here)
        assert answer.status_code == 200, here
        pages[here] = Seen(answer.text)
        for tag, found in pages[here].elements:
            if tag == "a":
                path, place = urldefrag(found["href"])
                waiting.append(path or here)
                targets.add((path or here, place))
    assert len(pages) > 20
    for path, place in targets:
        ids = {found.get("id") for _, found in pages[path].elements}
        assert not place or place in ids, f"{path} has no #{place}"


def test_every_asset_of_a_page_is_served_for_ever(normal: Site) -> None:
    seen = Seen(normal.get("service").text)
    assets = {one for one in seen.addresses() if one.startswith("/static/")}
    assert len(assets) == 4
    for asset in assets:
        answer = normal.client.get(asset)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["..%2froutes.py", "routes.py", "console.css%00", "secret"])
def test_only_our_own_files_are_served(normal: Site, name: str) -> None:
    assert normal.client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("name", [one for one in EMPTY_NAMES if one != "prediction"])
def test_an_empty_page_says_what_will_be_here(empty: Site, name: str) -> None:
    answer = empty.get(name)
    assert answer.status_code == 200
    if name.endswith(("-filtered", "-verified", "-week")):
        return
    assert "will be" in Seen(answer.text).words
    assert "doorstep " in Seen(answer.text).words


def test_a_missing_number_is_no_data_and_never_a_zero(normal: Site) -> None:
    assert "no data" in Seen(normal.get("release-step").text).words
    assert "no outcomes yet" in Seen(normal.get("overview").text).words


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/services/nope", 404, "no service is called 'nope'"),
        ("/services/%3Cscript%3E", 404, "is not a name"),
        ("/releases/nope", 404, "no release has the id"),
        ("/predictions/nope", 404, "no prediction has the id"),
        ("/services/loans/versions/99", 404, "there is no loans@99"),
        ("/services/loans/versions/x", 404, "there is no page"),
        ("/services/loans?fragment=nope", 404, "this page has no part"),
        ("/nowhere", 404, "there is no page /nowhere"),
    ],
)
def test_a_refusal_is_a_plain_page_with_the_fact(
    normal: Site, path: str, status: int, words: str
) -> None:
    answer = normal.client.get(path)
    assert answer.status_code == status
    assert words in Seen(answer.text).words
    assert answer.headers["content-security-policy"] == routes.CONTENT_SECURITY_POLICY


def test_a_refusal_names_the_next_command(normal: Site) -> None:
    assert "doorstep status" in Seen(normal.client.get("/services/nope").text).words


def test_a_part_that_cannot_be_answered_does_not_take_the_page_with_it(normal: Site) -> None:
    seen = Seen(normal.get("prediction-failed").text)
    assert "there is no score to explain" in seen.words
    assert "duration" in seen.words


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        (name, fragment)
        for name, fragments in {
            "overview": ("attention", "services"),
            "service": ("headline", "chartdata", "promises", "releases"),
            "release-step": ("headline", "actions", "guardrails", "decisions"),
            "monitor": ("findings",),
            "installation": ("nodes",),
        }.items()
        for fragment in fragments
    ],
)
def test_a_fragment_is_that_part_of_the_page_alone(normal: Site, name: str, fragment: str) -> None:
    path = paths(normal.fake)[name]
    text = normal.client.get(path, params={"fragment": fragment}).text
    assert "<html" not in text
    assert text.strip()
    whole = normal.client.get(path).text
    assert f'data-fragment="{fragment}"' in whole
    assert text.startswith(f'<div data-fragment="{fragment}">')


def test_a_hold_stands_however_many_were_held_or_erased_since(
    normal: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PEOPLE_EVENTS", 1)
    monkeypatch.setattr(records, "HOLDS_PER_QUESTION", 1)
    words = Seen(normal.client.get("/installation").text).words
    assert "1 person held" in words
    assert "the person b2 was freed" in words and "the person a1 was held" not in words
    normal.fake.asked.clear()
    normal.client.get("/installation?fragment=nodes")
    assert [name for name, _ in normal.fake.asked] == ["installation.show"]


def test_several_fragments_come_in_one_answer_that_asks_for_no_more_than_they_need(
    normal: Site,
) -> None:
    normal.fake.asked.clear()
    path = paths(normal.fake)["service"]
    text = normal.client.get(path, params={"fragment": "headline,releases"}).text
    parts = [found for tag, found in Seen(text).elements if "data-fragment" in found]
    assert [one["data-fragment"] for one in parts] == ["headline", "releases"]
    assert "gate.show" not in [name for name, _ in normal.fake.asked]


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("loans@3", "/services/loans/versions/3"),
        ("loans", "/?q=loans"),
        ("", "/"),
        ("a&b=<", "/?q=a%26b%3D%3C"),
        ("//evil.example", "/?q=//evil.example"),
        (RELEASE_ID, f"/releases/{RELEASE_ID}"),
        (
            "0197cafe-0003-7abc-8def-4e07408562be.2",
            "/predictions/0197cafe-0003-7abc-8def-4e07408562be.2",
        ),
    ],
)
def test_search_leads_to_the_thing_itself(normal: Site, wanted: str, path: str) -> None:
    answer = normal.client.get("/find", params={"q": wanted}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == path


def test_a_search_that_finds_nothing_says_so_and_what_can_be_searched(
    normal: Site, hostile: Site
) -> None:
    words = Seen(normal.client.get("/find", params={"q": "zebra"}).text).words
    assert "Nothing was found for zebra : none of the 5 services has a name that holds it." in words
    assert "a version, such as loans@3" in words
    assert "Needs a person" not in words
    assert (
        "Services whose name holds LOAN : 1 of 5" in Seen(normal.client.get("/?q=LOAN").text).words
    )
    assert "<b>1</b>" not in hostile.client.get("/", params={"q": "<b>1</b>"}).text


@pytest.mark.parametrize("number", ["-1", "x", "9" * 40, "1.5", "²"])
def test_a_number_that_is_none_is_taken_as_absent(normal: Site, number: str) -> None:
    assert normal.client.get("/ledger", params={"before": number}).status_code == 200
    path = "/services/loans/monitor"
    assert normal.client.get(path, params={"from": number}).status_code == 200


def test_the_service_file_shows_what_each_line_measures(normal: Site) -> None:
    words = Seen(normal.get("service").text).words
    assert "p99 <= 50 ms: 18.4 ms over the last hour" in words
    assert "drift none at p < 0.005 2 of 8 columns differ" in words


def test_an_older_page_goes_on_where_the_newer_ended(normal: Site) -> None:
    first = Seen(normal.client.get("/ledger").text)
    older = next(one for one in first.addresses() if "before=" in one)
    second = normal.client.get(older)
    assert "Older" in second.text
    assert older.split("before=")[1].split("&")[0] == "89"


def test_the_hostile_text_would_have_been_an_attack() -> None:
    assert [tag for tag, _ in Seen(HOSTILE).elements] == ["script", "img"]


def test_the_pages_of_predictions_have_each_that_matches_once(normal):
    seen: list[str] = []
    where = "/services/loans/predictions?answer=good&from=2020-01-01T00:00"
    while where:
        page = normal.client.get(where).text
        seen += re.findall(r'href="/predictions/([^"]+)"', page)
        found = re.search(r'href="(/services/loans/predictions\?[^"]*before=[^"]*)"', page)
        where = html.unescape(found[1]) if found else ""
    places = [console_data.prediction(normal.fake.begun, place) for place in range(60)]
    assert seen == [one.id for one in places if one.answer == "good"]


def test_a_filter_stays_chosen_in_the_form(normal):
    page = normal.get("predictions-filtered").text
    assert '<option value="2" selected>' in page
    assert '<option value="ok" selected>' in page
    assert 'name="from" value="2020-01-01T00:00"' in page


def test_a_time_that_is_none_is_said(normal):
    answer = normal.client.get("/services/loans/predictions?from=yesterday")
    assert (answer.status_code, "is not a time" in answer.text) == (422, True)
