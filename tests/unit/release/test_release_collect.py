"""Evidence outlives its node: boots that are gone are kept once, and never undone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from release_cases import in_step

from doorstep.compose.control import ControlPlane
from doorstep.core.errors import RefusedError
from doorstep.core.instant import SystemClock
from doorstep.core.report import FORMAT, Cell, NodeReport
from doorstep.kernel.app import App
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.release import outcomes
from doorstep.release.collect import Keeper, collect
from doorstep.release.reading import Read
from doorstep.release.types import Guardrail, Ranking
from doorstep.serve.evidence import PAST_KEPT, set_aside

RELEASE = in_step()


def report(boot: str, requests: int, bad: int = 0, sequence: int = 1) -> NodeReport:
    cell = Cell(
        release=RELEASE.id, epoch=1, segment="", arm="challenger",
        requests=requests, ok=requests - bad, bad=bad,
    )  # fmt: skip
    return NodeReport(
        format=FORMAT, node="local", boot=boot, sequence=sequence, at=0, plan_term=1,
        plan_number=1, lease_held=True, data_url="", workers=(), loaded=(), problems=(),
        services=(), cells=(cell,) if requests else (),
    )  # fmt: skip


@pytest.fixture
def control(sqlite_database: Database, tmp_path: Path) -> ControlPlane:
    home = open_home(tmp_path / "home", create=True)
    return ControlPlane(home, sqlite_database, SystemClock(), {}, {}, tmp_path)


@pytest.fixture
def app(control: ControlPlane) -> App:
    return control.app()


def write(app: App, what: NodeReport) -> None:
    (app.home.nodes / "local.json").write_bytes(msgspec.json.encode(what))
    app.nodes.look()


def counted(app: App) -> tuple[int, int]:
    cells = collect(app, RELEASE).cells
    return sum(one.requests for one in cells), sum(one.requests - one.successes for one in cells)


def past(app: App) -> list[str]:
    return [path.name for path in (app.home.nodes / "past").glob("*")]


def test_a_new_boot_adds_to_what_the_boot_before_reported(app: App):
    write(app, report("one", 100, bad=7))
    # Nobody has kept it when the node starts anew.
    set_aside(app.home.nodes, "local", "two")
    write(app, report("two", 30))
    Keeper().keep(app, [RELEASE])
    assert counted(app) == (130, 7)
    assert past(app) == []


def test_a_boot_is_counted_once_however_often_it_is_read(app: App):
    keeper = Keeper()
    write(app, report("one", 100, bad=7))
    keeper.keep(app, [RELEASE])
    set_aside(app.home.nodes, "local", "two")
    for _ in range(3):
        keeper.keep(app, [RELEASE])
        Keeper().keep(app, [RELEASE])
    assert counted(app) == (100, 7)


def test_a_reading_that_comes_late_does_not_undo_a_later_one(app: App):
    keeper = Keeper()
    write(app, report("one", 100, bad=7))
    # We have seen 100; its last word before the boot ended was 120, which only the file has.
    last = report("one", 120, bad=9, sequence=2)
    (app.home.nodes / "local.json").write_bytes(msgspec.json.encode(last))
    set_aside(app.home.nodes, "local", "two")
    for _ in range(2):
        keeper.keep(app, [RELEASE])
    assert counted(app) == (120, 9)


@pytest.mark.parametrize("found", [report("one", 0), report("two", 5)], ids=["no-cells", "same"])
def test_only_another_boot_with_evidence_is_set_aside(app: App, found: NodeReport):
    write(app, found)
    set_aside(app.home.nodes, "local", "two")
    assert past(app) == []
    assert (app.home.nodes / "local.json").exists()


def test_what_nobody_keeps_is_bounded(app: App):
    for number in range(PAST_KEPT + 5):
        write(app, report(f"b{number}", 1))
        set_aside(app.home.nodes, "local", "now")
    assert len(past(app)) == PAST_KEPT


def test_evidence_of_ended_releases_is_let_go(app: App):
    write(app, report("one", 10))
    set_aside(app.home.nodes, "local", "two")
    Keeper().keep(app, [])
    assert past(app) == []


def test_a_report_that_cannot_be_read_is_left_alone(app: App):
    folder = app.home.nodes / "past"
    folder.mkdir()
    (folder / "local.x.json").write_bytes(b"{")
    Keeper().keep(app, [RELEASE])
    assert past(app) == ["local.x.json"]


def test_evidence_of_outcomes_that_cannot_be_read_any_more_is_said_to_be_old(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    known = Read((), (Ranking("challenger", 0.8, 0.7, 0.9, 50),))
    answers: list[Read | RefusedError] = [known, RefusedError("child-died", "it died"), known]

    def look(*_: object) -> Read:
        answer = answers.pop(0)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    monkeypatch.setattr(outcomes, "read_losses", look)
    monkeypatch.setattr(outcomes, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(outcomes, "LOOK_PART_MAX", 1e9)
    rails = (Guardrail(weight=0.5), Guardrail(name="quality", tolerance=0.0, margins=(0.05,),
             weight=0.5, reference=0.2))  # fmt: skip
    release = in_step(guardrails=rails, steps=(0.5,), dwell_s=(0.0,), margins=(2.0,))
    losses = app.kept.get(outcomes.Losses, outcomes.Losses)
    losses.look(app, [release])
    assert losses.trouble(release.id) == ""
    with pytest.raises(RefusedError):
        losses.look(app, [release])
    assert "could not be read: " in losses.trouble(release.id)
    assert collect(app, release).rankings == known.rankings
    losses.look(app, [release])
    assert losses.trouble(release.id) == ""
