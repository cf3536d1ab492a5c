"""The console in a real browser: no errors, no strangers, readable, by keys and on a phone."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fakes import console_data
from fakes.console import FakeDoorstep, Variant, make_app
from fakes.console_releases import RELEASE_BACK, RELEASE_STEP

pytestmark = pytest.mark.browser
START_WAIT_S = 30
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("chrome", "headless_shell"),
)
PATHS = {
    "overview": "/",
    "service": "/services/loans",
    "service-new": "/services/triage",
    "version": "/services/loans/versions/4",
    "monitor": "/services/loans/monitor",
    "predictions": "/services/loans/predictions",
    "history": "/services/loans/history",
    "prediction": "",
    "release": f"/releases/{RELEASE_STEP}",
    "rolled-back": f"/releases/{RELEASE_BACK}?recompute=1",
    "file": "/services/loans/file",
    "ledger": "/ledger?verify=1",
    "installation": "/installation",
}
CONTRAST = """
() => {
  const curve = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const channel = (c) => curve(c / 255);
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.offsetParent && !(element instanceof SVGElement)) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
STRUCTURE = """
() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const check = (fine, what, one) => fine || found.push(what + one.outerHTML.slice(0, 80));
  const levels = all("h1, h2, h3").map((one) => Number(one.tagName[1]));
  if (levels.filter((one) => one === 1).length !== 1) found.push("not one h1");
  levels.forEach((one, at) => at && one > levels[at - 1] + 1 && found.push(`h${one} too deep`));
  all("table").forEach((one) => check(one.caption, "no caption", one));
  // Plotly measures text in a drawing of its own, that nobody sees.
  all("svg:not([aria-hidden], #js-plotly-tester)").forEach((one) =>
    check(one.closest("[aria-hidden], .chart") || one.ariaLabel, "no words", one));
  all("input:not([type=hidden]), select, textarea:not([hidden])").forEach((one) =>
    check(one.labels?.length || one.ariaLabel, "no label", one));
  const ids = all("[id]").map((one) => one.id);
  ids.forEach((one, at) => ids.indexOf(one) === at || found.push(`id twice: ${one}`));
  return found;
}
"""


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Served:
    """A fake installation behind a real server."""

    def __init__(self, variant: Variant) -> None:
        import uvicorn

        self.fake = FakeDoorstep(variant)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(make_app(self.fake), log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> Served:
        self._socket.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(START_WAIT_S)

    def address(self, name: str) -> str:
        prediction = f"/predictions/{console_data.prediction(self.fake.begun, 4).id}"
        return self.url + (PATHS[name] or prediction)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served("normal") as one:
        yield one


class Watched:
    """A page, and what went wrong or away from home while it was open."""

    def __init__(self, chromium: Any, home: str, **options: Any) -> None:
        self.context = chromium.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda asked: self._asked(asked.url, home))
        self.page.on("requestfailed", lambda asked: self.problems.append(f"failed {asked.url}"))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _asked(self, url: str, home: str) -> None:
        if not url.startswith(home + "/"):
            self.problems.append(f"asked {url}")

    def open(self, url: str) -> Any:
        self.page.goto(url, wait_until="load")
        if self.page.query_selector("[data-chart]"):
            self.page.wait_for_selector(".chart.drawn .main-svg")
        return self.page

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", PATHS)
def test_hostile_values_run_nothing(chromium: Any, name: str) -> None:
    with Served("hostile") as served, Watched(chromium, served.url) as watched:
        watched.page.on("dialog", lambda box: watched.problems.append(box.message))
        watched.open(served.address(name))
        assert watched.problems == []


@pytest.mark.parametrize("name", PATHS)
def test_a_phone_never_scrolls_sideways(chromium: Any, served: Served, name: str) -> None:
    size = {"width": 390, "height": 800}
    with Watched(chromium, served.url, viewport=size) as watched:
        page = watched.open(served.address(name))
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PATHS)
def test_a_page_opens_without_error_or_stranger_and_its_text_stands_out(
    chromium: Any, served: Served, name: str, scheme: Any
) -> None:
    with Watched(chromium, served.url, color_scheme=scheme) as watched:
        page = watched.open(served.address(name))
        assert watched.problems == []
        assert page.evaluate(CONTRAST) == []


def test_keys_search_move_and_help(chromium: Any, served: Served) -> None:
    with Watched(chromium, served.url) as watched:
        page = watched.open(served.url + "/")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.press("j")
        assert page.input_value("#search") == "j"
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        assert not page.is_visible("#help")
        page.keyboard.press("j")
        first = page.evaluate("document.activeElement.href")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.href") != first
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.href") == first
        page.keyboard.press("Enter")
        page.wait_for_url(first)


def test_rows_of_a_phone_are_short_and_open_by_keys(chromium: Any, served: Served) -> None:
    size = {"width": 390, "height": 800}
    with Watched(chromium, served.url, viewport=size) as watched:
        page = watched.open(served.address("predictions"))
        row = page.locator("tr[data-row]").first
        assert row.bounding_box()["height"] < 70
        assert not row.locator("td[data-label=Key]").is_visible()
        row.locator("summary").focus()
        page.keyboard.press("Enter")
        assert row.locator("td[data-label=Key]").is_visible()


def test_a_service_file_is_edited_by_keys_alone(chromium: Any) -> None:
    with Served("normal") as served, Watched(chromium, served.url) as watched:
        page = watched.open(served.address("file"))
        page.focus("#text")
        page.keyboard.press("Control+End")
        page.keyboard.type("# a line")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=What it would change")
        page.focus("text=Apply it as revision")
        page.keyboard.press("Enter")
        page.wait_for_url(served.url + "/services/loans#file")
        assert watched.problems == []


@pytest.mark.parametrize("name", PATHS)
def test_headings_tables_pictures_and_fields_have_words(
    chromium: Any, served: Served, name: str
) -> None:
    with Watched(chromium, served.url) as watched:
        assert watched.open(served.address(name)).evaluate(STRUCTURE) == []


def test_a_search_by_version_opens_it(chromium: Any, served: Served) -> None:
    with Watched(chromium, served.url) as watched:
        page = watched.open(served.url + "/")
        page.fill("#search", "loans@3")
        page.press("#search", "Enter")
        page.wait_for_url(served.url + "/services/loans/versions/3")


def test_a_page_follows_what_changes_by_itself(chromium: Any) -> None:
    with Served("normal") as served, Watched(chromium, served.url) as watched:
        page = watched.open(served.address("release"))
        served.fake.change(RELEASE_STEP, "pause", "paused", "a colleague paused it")
        page.wait_for_selector("text=a colleague paused it")
        assert watched.problems == []


def test_a_page_says_when_it_is_out_of_date(chromium: Any) -> None:
    with Served("normal") as served, Watched(chromium, served.url) as watched:
        page = watched.open(served.address("release"))
        assert not page.is_visible("[data-stale]")
        watched.context.set_offline(True)
        page.wait_for_selector("[data-stale]", state="visible")


def test_what_a_person_has_open_is_not_swapped_away(chromium: Any) -> None:
    with Served("normal") as served, Watched(chromium, served.url) as watched:
        page = watched.open(served.address("release"))
        page.click("[data-fragment=decisions] summary >> nth=0")
        with page.expect_response(lambda answer: "guardrails" in answer.url):
            pass
        with page.expect_response(lambda answer: "guardrails" in answer.url):
            pass
        assert page.is_visible("[data-fragment=decisions] details[open] table")


def test_without_javascript_a_release_can_be_paused_with_a_reason(chromium: Any) -> None:
    options = {"java_script_enabled": False}
    with Served("normal") as served, Watched(chromium, served.url, **options) as watched:
        page = watched.page
        page.goto(served.address("release"))
        page.click("text=Pause")
        page.fill("details[open] textarea", "without any script")
        page.click("details[open] button")
        page.wait_for_selector("text=without any script")
        assert served.fake.release(RELEASE_STEP).state == "paused"


def test_the_chart_takes_the_colours_of_the_scheme(chromium: Any, served: Served) -> None:
    bar = "getComputedStyle(document.querySelector('.chart .barlayer path')).fill"
    found = set()
    for scheme in ("light", "dark"):
        with Watched(chromium, served.url, color_scheme=scheme) as watched:
            page = watched.open(served.address("service"))
            page.wait_for_selector(".chart .barlayer path", state="attached")
            found.add(page.evaluate(bar))
    assert len(found) == 2
    assert not any("$" in one for one in found)
