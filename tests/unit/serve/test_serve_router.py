"""Paths of several protocols in one tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorstep.serve import site
from doorstep.serve.http import Head
from doorstep.serve.router import Router
from serve_case import PLAIN, Answer, OneSite

ROUTER: Router[str] = Router(
    [
        {"v1/models/{service}": {"GET": "status"}, "v1/models/{service}:predict": {"POST": "row"}},
        {
            "v2/models/{service}/versions/{version}/infer": {"POST": "infer"},
            "ping": {"GET": "ping"},
        },
    ]
)


@pytest.mark.parametrize(
    ("path", "handlers", "names"),
    [
        ("/ping", {"GET": "ping"}, {}),
        ("/ping/", {"GET": "ping"}, {}),
        ("/v1/models/loans", {"GET": "status"}, {"service": "loans"}),
        ("/v1/models/loans:predict", {"POST": "row"}, {"service": "loans"}),
        (
            "/v2/models/m/versions/3/infer",
            {"POST": "infer"},
            {"service": "m", "version": "3"},
        ),
    ],
)
def test_a_path_is_found_with_what_it_names(path: str, handlers: dict, names: dict) -> None:
    found = ROUTER.find(path)
    assert found is not None
    assert (found.handlers, found.names) == (handlers, names)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1", "/v1/models", "/v1/models/:predict", "/v1/models/a:explain", "/v1/models/a/b",
     "/v2/models/m/versions/3", "//ping/x", "/ping:x", "/" + "a/" * 100_000],
)  # fmt: skip
def test_nothing_else_is_found(path: str) -> None:
    assert ROUTER.find(path) is None


def test_two_tables_with_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match="ping"):
        Router([{"ping": {"GET": 1}}, {"ping": {"GET": 2}}])


def test_a_site_remembers_few_places_and_only_those_of_short_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PLACES_KEPT", 8)
    one = OneSite(tmp_path, {"price": (PLAIN, ())})
    shortest = len("/v1/services//predict")
    for length in (*range(shortest + 1, 300), 30_000):
        url = f"/v1/services/{'z' * (length - shortest)}/predict".encode()
        answer = Answer()
        one.site.handle(answer, Head(b"POST", url, 2, True, False, {}), b"{}")
        assert answer.status == 404
        kept = [len(known) for _, known in one.site._places]
        assert len(kept) <= 8 and max(kept) <= site.PLACE_URL_BYTES_MAX
        assert (length in kept) == (length <= site.PLACE_URL_BYTES_MAX)
    one.close()
