"""Which server is asked, and who gets the home's token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from doorstep.core.errors import UnreachableError
from doorstep.kernel.home import Home, open_home
from doorstep.kernel.keys import create_keys, load_token
from doorstep.kernel.server import Announcement, announce, find_server, is_running

OURS = "http://127.0.0.1:7443"
STRANGER = "http://stranger.example:7443"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = open_home(tmp_path / "home", create=True)
    create_keys(made.keys, made.id)
    return made


@pytest.fixture
def running(home: Home) -> Home:
    announce(home, Announcement(url=OURS, data_url="", health_url="", pid=os.getpid()))
    return home


def find(home: Home, url: str | None = None, token: str | None = None, **environ: str):
    return find_server(url, token, home.path, environ, Path("/"))


def test_the_homes_server_is_found_with_the_homes_token(running: Home) -> None:
    assert find(running) == (OURS, load_token(running.keys))


@pytest.mark.parametrize("named", [OURS, OURS + "/"])
def test_naming_the_homes_own_server_changes_nothing(running: Home, named: str) -> None:
    assert find(running, named) == find(running)
    assert find(running, DOORSTEP_URL=named) == find(running)


def test_another_server_never_gets_the_homes_token(running: Home) -> None:
    near = "http://127.0.0.1:74430", OURS + ".evil.example", "http://u@127.0.0.1:7443"
    for named in (STRANGER, *near):
        for words in ({"url": named}, {"DOORSTEP_URL": named}):
            with pytest.raises(UnreachableError, match="no token for") as refused:
                find(running, **words)
            assert refused.value.code == "no-token"
            assert "DOORSTEP_TOKEN" in refused.value.hint
            assert load_token(running.keys) not in str(refused.value)


def test_a_home_that_does_not_run_gives_its_token_to_no_url(home: Home) -> None:
    with pytest.raises(UnreachableError, match="is not running") as refused:
        find(home, OURS)
    assert refused.value.code == "no-token"
    with pytest.raises(UnreachableError) as refused:
        find(home)
    assert refused.value.code == "no-server"


def test_a_token_that_was_given_goes_where_it_was_told(running: Home) -> None:
    assert find(running, STRANGER, "secret") == (STRANGER, "secret")
    assert find(running, STRANGER, DOORSTEP_TOKEN="secret") == (STRANGER, "secret")
    assert find(running, DOORSTEP_TOKEN="secret") == (OURS, "secret")


def test_a_home_without_a_token_file_says_so(running: Home) -> None:
    (running.keys / "token").unlink()
    with pytest.raises(UnreachableError) as refused:
        find(running)
    assert refused.value.code == "no-token"


def test_a_number_that_is_no_process_is_not_running() -> None:
    assert is_running(os.getpid())
    assert not is_running(10**19)
