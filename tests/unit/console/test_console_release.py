"""The page of a release in its states: where it stands, what each guardrail says, made again."""

from __future__ import annotations

import msgspec
import pytest
from litestar.testing import TestClient

from doorstep.console.measures import Stage, stages_of, verdict_of
from doorstep.console.records import fold
from doorstep.govern.surface import EventView
from doorstep.release.surface import DecisionView, GuardrailView, Release
from fakes import console_releases as told
from fakes.console import FakeDoorstep, make_app

NOW = 100 * told.DAY
STEPPING, BACK, DONE = told.releases(NOW)


def decided(release: Release, *actions: str) -> Release:
    """The release with these decisions, a minute apart from its start on."""
    decisions = tuple(
        DecisionView(
            sequence=place,
            at=release.started_at + place * told.MINUTE,
            action=action,
            state="step",
            reason="",
            by="doorstep",
        )
        for place, action in enumerate(actions, 1)
    )
    return msgspec.structs.replace(release, decisions=decisions)


def now_at(release: Release) -> Stage:
    return next(one for one in stages_of(release, NOW) if one.place == "now")


def test_a_release_in_waves_stands_at_a_wave_and_its_step() -> None:
    waves = (
        told.wave("pilot", "carried", 0.95, 4, {"store": ("3",)}),
        told.wave("north", "now", 0.05, 2, {"region": ("north",)}),
        told.wave("", "waiting", 0.0, 0, {}),
    )
    shown = msgspec.structs.replace(STEPPING, waves=waves)
    shown = decided(shown, *["advance"] * 6)
    names = [(one.name, one.place) for one in stages_of(shown, NOW)]
    assert names == [
        ("shadow", "past"),
        ("wave pilot", "past"),
        ("wave north", "now"),
        ("the rest", "next"),
        ("bake", "next"),
        ("done", "next"),
    ]
    assert stages_of(shown, NOW)[1].note == "4 min"
    assert now_at(shown).note == "step 2 of 4, 5 %, 42 min"


def test_a_promoted_release_skipped_its_other_steps() -> None:
    shown = decided(DONE, "advance", "promote")
    assert [one.place for one in stages_of(shown, NOW)] == [
        *("past", "past"),
        *("next", "next", "next", "next"),
        "now",
    ]
    assert now_at(shown).name == "done"


@pytest.mark.parametrize(
    ("state", "is_over", "note"),
    [
        ("rolled-back", True, "rolled back here after"),
        ("inconclusive", True, "no answer here after"),
        ("inconclusive", False, "no answer here after"),
        ("paused", False, "paused here, step 1 of 4"),
    ],
)
def test_a_release_that_does_not_go_on_says_so_where_it_stands(
    state: str, is_over: bool, note: str
) -> None:
    ended = BACK.ended_at if is_over else None
    here = now_at(msgspec.structs.replace(BACK, state=state, ended_at=ended))
    assert here.note.startswith(note)
    assert here.is_end is is_over


def test_a_rollback_in_the_bake_ended_in_the_bake() -> None:
    shown = msgspec.structs.replace(DONE, state="rolled-back")
    assert now_at(decided(shown, *["advance"] * 5, "rollback")).name == "bake"


def rail(worse: float, better: float, enough: float, role: str = "guardrail") -> GuardrailView:
    found = told.guardrails(0.5)[0]
    return msgspec.structs.replace(
        found,
        log_e_rollback=worse,
        log_e_rollback_threshold=3.0,
        log_e_advance=better,
        log_e_advance_threshold=enough,
        role=role,
    )


@pytest.mark.parametrize(
    ("guardrail", "verdict"),
    [
        (rail(3.0, 9.0, 3.0), ("fail", "worse than tolerated")),
        (rail(2.9, 3.0, 3.0), ("pass", "good enough to advance")),
        (rail(2.9, 2.9, 3.0), ("none", "not yet known")),
        (rail(0.0, 0.0, 0.0), ("none", "only watched")),
        (rail(0.0, 3.0, 3.0, "experiment"), ("pass", "the challenger has won")),
        (rail(3.0, 0.0, 3.0, "experiment"), ("fail", "the champion has won")),
    ],
)
def test_a_guardrail_has_the_verdict_of_its_evidence(
    guardrail: GuardrailView, verdict: tuple[str, str]
) -> None:
    assert verdict_of(guardrail) == verdict


def page(release: Release, query: str = "") -> str:
    fake = FakeDoorstep()
    fake._releases[release.id] = release
    with TestClient(make_app(fake)) as client:
        return " ".join(client.get(f"/releases/{release.id}{query}").text.split())


def test_a_first_version_is_held_to_a_limit_and_to_no_champion() -> None:
    errors = msgspec.structs.replace(told.guardrails(0.5)[0], champion=None, limit=0.01)
    shown = msgspec.structs.replace(
        BACK, champion=None, state="bake", ended_at=None, guardrails=(errors,), decisions=()
    )
    said = page(shown)
    assert "at most 1 %" in said
    assert "None" not in said and "Requests, champion" not in said


def test_a_release_without_requests_says_that_there_is_no_traffic() -> None:
    quiet = msgspec.structs.replace(STEPPING, requests_champion=0, requests_challenger=0)
    assert "No request has come since it began" in page(quiet)
    assert "No request has come since it began" not in page(STEPPING)


def test_a_deadline_says_when_and_what_then() -> None:
    shown = msgspec.structs.replace(
        STEPPING, deadline_at=STEPPING.started_at, deadline_then="rollback"
    )
    assert "it is taken back" in page(shown)


def test_decisions_are_made_again_when_asked() -> None:
    assert "are the same" in page(BACK, "?recompute=1")
    assert "Recomputed" not in page(BACK)


def test_a_persons_name_stands_once_beside_their_reason() -> None:
    said = decided(BACK, "rollback")
    one = msgspec.structs.replace(said.decisions[0], reason="mira: it is upside down", by="mira")
    assert "because it is upside down" in page(msgspec.structs.replace(said, decisions=(one,)))


def test_what_happens_by_itself_is_folded_under_the_first_of_it() -> None:
    kinds = ("release.epoch", "journal.closed", "release.epoch", "gate.decided", "journal.closed")
    events = [
        EventView(
            sequence=9 - place, at=NOW, kind=kind, actor="doorstep", object="", sentence="",
            data={}, leaf_hash="",
        )
        for place, kind in enumerate(kinds)
    ]  # fmt: skip
    found = [(one.sequence, [other.sequence for other in others]) for one, others in fold(events)]
    assert found == [(9, [8, 7]), (6, []), (5, [])]
