"""The demo says that it went as told only when every step did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doorstep.cli.demo_story import STEPS, Told, expect, expect_clean
from doorstep.cli.demo_summary import StepDone, run_story, summarise, summary_text, where_to_look
from doorstep.cli.demo_traffic import Tally
from doorstep.cli.demo_world import World, example_folder, open_world, read_cases
from doorstep.cli.output import Progress
from doorstep.compose.up import Ready
from doorstep.core.errors import RefusedError
from doorstep.core.verdict import Verdict
from doorstep.kernel.home import open_home
from doorstep.kernel.keys import create_keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world in which nothing runs."""
    home = open_home(tmp_path / "home", create=True)
    create_keys(home.keys, home.id)
    ready = Ready(
        console_url="http://127.0.0.1:1",
        data_url="http://127.0.0.1:2",
        health_url="http://127.0.0.1:3",
        invite="",
        home=str(home.path),
        pid=0,
    )
    return World(home.path, ready, 7, Progress())


def step(number: int, verdict: Verdict) -> StepDone:
    return StepDone(number=number, title="t", verdict=verdict, sentence="s", took_s=1.0)


def fine(_: World) -> Told:
    return Told("it went", {"n": 1})


def wrong(_: World) -> Told:
    raise RefusedError("not-as-told", "it did not go")


def test_the_closing_text_says_commands_that_work_on_the_home_that_stays(world: World) -> None:
    world.folder.mkdir()
    data = example_folder() / "data" / "german-credit.csv"
    (world.folder / "loans-holdout.csv").write_bytes(data.read_bytes())
    said = where_to_look(world, stays_up=False)
    first, console, *_ = (one.split()[0] for one in said.splitlines()[2:])
    assert (first, console) == ("start", "console")
    for command in ("up -d", "console", "ledger verify", "history loans"):
        assert f"  doorstep {command} --home {world.home}" in said
    assert "127.0.0.1" not in said, "what has just stopped is no address"


def test_steps_that_go_as_told_are_told(world: World) -> None:
    found = run_story(world, (("a", fine), ("b", fine)))
    assert found.told
    assert [one.numbers for one in found.steps] == [{"n": 1}, {"n": 1}]
    assert summary_text(found).startswith("✓ 2 of 2 steps went as told")


def test_after_a_step_that_fails_the_others_are_not_begun(world: World) -> None:
    begun: list[str] = []

    def late(_: World) -> Told:
        begun.append("late")
        return Told("", {})

    found = run_story(world, (("a", fine), ("b", wrong), ("c", late), ("d", late)))
    assert not found.told
    assert begun == []
    assert [one.verdict.value for one in found.steps] == [
        "pass",
        "fail",
        "inconclusive",
        "inconclusive",
    ]
    assert found.steps[1].sentence == "not-as-told: it did not go"
    assert summary_text(found).startswith("✗ 1 of 4 steps went as told")


@pytest.mark.parametrize("last", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_one_step_that_did_not_pass_is_enough(world: World, last: Verdict) -> None:
    assert not summarise(world, [step(1, Verdict.PASS), step(2, last)], 2.0).told
    assert not summarise(world, [], 0.0).told


def test_one_failed_request_is_not_as_told() -> None:
    expect_clean(Tally(answered=10))
    with pytest.raises(RefusedError, match="1 of 10 requests failed: 503"):
        expect_clean(Tally(answered=10, failed=1, first_failure="503"))


def test_what_is_not_so_is_said() -> None:
    expect(True, "never said")
    with pytest.raises(RefusedError, match="it is not so"):
        expect(False, "it is not so")


def test_there_are_seven_steps() -> None:
    assert len(STEPS) == 7


def test_a_home_where_it_ran_before_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "loans").mkdir()
    with pytest.raises(RefusedError) as caught:
        open_world(tmp_path, 7, Progress())
    assert caught.value.code == "demo-ran-here"
    assert [one.name for one in tmp_path.iterdir()] == ["loans"]


def test_the_example_lies_where_it_is_looked_for() -> None:
    folder = example_folder()
    for name in ("README.md", "train.py", "doorstep.yaml", "data/SOURCE.md"):
        assert (folder / name).stat().st_size > 0


def test_no_loan_of_the_data_is_for_the_product_that_only_live_traffic_has() -> None:
    cases = read_cases(example_folder() / "data" / "german-credit.csv")
    assert len(cases) == 1000
    assert sum(one.outcome == "bad" for one in cases) == 300
    values: set[Any] = {one.row["purpose"] for one in cases}
    assert "vacation" not in values
    assert "sex" not in cases[0].row
