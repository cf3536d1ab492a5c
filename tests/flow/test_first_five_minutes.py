"""The first five minutes with the user's own model: the commands of the README, on real processes.

One server for all of the module; every test is a stretch of one story, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from shell_case import Shell

from loans_case import write_case

QUICK = """
release:
  shadow: {requests: 0}
  steps: [50%]
  dwell: 1s
  bake: 1s
"""
"""A release whose times are over at once; how much evidence it needs stays as it is."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("five"))
    write_case(made.folder, rows=3000)
    yield made
    made("down")


def test_a_pickle_is_refused_until_its_author_vouches_for_it(shell: Shell) -> None:
    words = ("init", "model.pkl", "--train", "train.csv", "--holdout", "test.csv")
    said = shell(*words, "--label", "default")
    assert said.code == 1
    assert said.told.splitlines()[-1] == (
        "✗ model.pkl is an unsigned pickle and can run code. If you made it:  "
        'doorstep trust model.pkl --why "..."'
    )
    assert shell("trust", "model.pkl", "--why", "trained by me").code == 0
    said = shell(*words, "--label", "default")
    assert said.code == 0, said.told
    assert "✓ scikit-learn pipeline, binary, 7 columns" in said.told
    assert "! 2 columns look personal (name, email): set to pseudonymise" in said.told
    assert re.search(r"✓ wrote doorstep\.yaml \([23][0-9] lines\)", said.told)
    assert shell("check").code == 0


def test_one_command_starts_everything_and_a_second_one_is_refused(shell: Shell) -> None:
    ports = ("--data-port", "0", "--health-port", "0", "--control-port", "0")
    said = shell("up", "-d", *ports)
    assert said.code == 0, said.told
    assert re.search(r"✓ console http://127\.0\.0\.1:\d+   predict http://127\.0\.0\.1:\d+", said.told)  # fmt: skip  # noqa: E501
    again = shell("up", "-d", *ports)
    assert again.code == 1
    assert "already-running" in again.told
    assert re.search(r"process \d+", again.told)
    assert "/sign-in?code=" in shell("console").out
    assert shell("doctor").code in (0, 4)


def test_the_model_becomes_a_version_that_answers(shell: Shell) -> None:
    said = shell("register", "model.pkl")
    assert said.code == 0, said.told
    assert said.out == "loans@1\n"
    told = said.told.splitlines()
    line = next(one for one in told if one.startswith("✓ loans@1"))
    assert re.search(r"loans@1  ONNX, ([\d,]+) of \1 rows agree", line)
    assert re.search(r"✓ quality auc 0\.\d+ \[0\.\d+, 0\.\d+\]", line)
    assert told[-1] == "next: doorstep release start loans@1"
    assert shell("release", "start", "loans@1").code in (0, 4)
    answered = shell.json("predict", "loans", "test.csv", "--rows", "1")
    assert answered["version"] == 1
    assert answered["predictions"][0]["answer"] in ("no", "yes")


def test_the_same_model_is_the_same_version(shell: Shell) -> None:
    said = shell("register", "model.pkl", "--no-gate")
    assert said.code == 0, said.told
    assert "this model is loans@1 already" in said.told
    assert [one["number"] for one in shell.json("list", "loans")] == [1]


def test_a_version_that_fails_on_real_rows_is_taken_back_and_the_reason_is_named(
    shell: Shell,
) -> None:
    assert shell("trust", "model_v2.pkl", "--why", "trained by me").code == 0
    said = shell("register", "model_v2.pkl")
    assert said.code == 0, said.told
    said = shell("release", "start", "loans@2", "--rehearse", "week.csv", "--timeout", "240")
    assert said.code == 1, said.told
    (line,) = [one for one in said.told.splitlines() if one.startswith("✗ rolled back")]
    assert re.search(r"errors [\d.]+ % against 0\.0 % \(evidence [\d,]+ to 1\)", line)
    assert "Clients saw 0 failures." in line
    assert re.search(r"Why: \d+ rows with purpose='vacation', never seen in training$", line)
    assert shell.json("predict", "loans", "test.csv", "--rows", "1")["version"] == 1


def test_without_a_shadow_the_champion_answers_what_the_challenger_cannot(shell: Shell) -> None:
    file = shell.folder / "doorstep.yaml"
    file.write_text(file.read_text() + QUICK)
    assert shell("register", "model_v2.pkl").code == 0
    said = shell("release", "start", "loans@2", "--rehearse", "week.csv", "--timeout", "240")
    assert said.code == 1, said.told
    (line,) = [one for one in said.told.splitlines() if one.startswith("✗ rolled back")]
    assert "Clients saw 0 failures." in line
    assert "purpose='vacation', never seen in training" in line


def test_a_version_that_does_no_worse_becomes_champion_without_a_failed_request(
    shell: Shell,
) -> None:
    said = shell("release", "start", "loans@2", "--rehearse", "test.csv", "--timeout", "240")
    assert said.code == 0, said.told + said.out
    assert "Clients saw 0 failures" in said.told
    assert shell.json("predict", "loans", "test.csv", "--rows", "1")["version"] == 2


def test_history_says_who_served_when_and_why(shell: Shell) -> None:
    said = shell("history", "loans")
    assert said.code == 0
    assert "live at" in said.out
    assert "loans@2" in said.out.splitlines()[0]
    assert "a rehearsal" in said.out
    assert shell("ledger", "verify").code == 0


def test_it_stops_when_told_to_and_a_second_time_too(shell: Shell) -> None:
    assert "✓ stopped (process " in shell("down").told
    said = shell("down")
    assert said.code == 0
    assert "nothing is running" in said.told
    assert shell("list").code == 5
