"""Sealed fields on a real node: sealed, opened for a reason, erased; and a server killed while it
erases."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from doorstep.core.contract import Field
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.instant import SystemClock
from doorstep.core.outcome import OutcomeGiven
from doorstep.journal.sealing import pseudonym
from doorstep.journal.subjects import Erasure, subjects_of
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for

CANARY = "Canary-7f3a"
CONTEXT = (
    Field(name="name", type="text", personal="seal"),
    Field(name="age", type="int", personal="seal"),
)
MORE = (
    "ids: {key: case, subject: person}\n"
    "contract: {context: {name: {type: text, personal: seal}, age: {type: int, personal: seal}}}\n"
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInstallation]:
    with RunningInstallation(tmp_path_factory.mktemp("personal") / "home") as running:
        running.register("care", context=CONTEXT, more=MORE)
        running.serve("care@1")
        yield running


def ask(here: RunningInstallation, person: str, case: str) -> str:
    """The id of one prediction."""
    row = {"x0": 1.0, "x1": 0.5, "x2": 1.0}
    context = {"person": f"{person}-{CANARY}", "case": case, "name": f"N-{CANARY}", "age": 61}
    answer = httpx.post(
        f"{here.data_url}/v1/services/care/predict",
        json={"rows": [row], "context": context},
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["predictions"][0]["id"])


def cli(here: RunningInstallation, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "doorstep.cli.main", *words, "--home", str(here.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def files_with(home: Path, text: str) -> list[str]:
    return [
        str(one) for one in home.rglob("*") if one.is_file() and text.encode() in one.read_bytes()
    ]


def compacted(here: RunningInstallation, prediction: str) -> None:
    """A node that stops closes its blocks; the next one compacts them."""
    here.restart()
    states = ("proven", "erased")
    wait_for(lambda: here.client.prove(prediction).state in states or None, "it is compacted")


def test_a_person_is_sealed_opened_and_erased(here: RunningInstallation, tmp_path: Path) -> None:
    anna, other = ask(here, "anna", "c1"), ask(here, "bert", "c2")
    for is_compacted in (False, True):
        if is_compacted:
            compacted(here, anna)
        client = here.client
        assert files_with(here.home, CANARY) == []
        shown = client.prediction(anna)
        assert (shown.personal, shown.context) == ("sealed", {"age": None, "name": None})
        opened = client.open_prediction(anna, "a question of hers")
        assert opened.context == {"age": 61.0, "name": f"N-{CANARY}"}
        assert opened.personal == "open"
        found = client.predictions("care", subject=f"anna-{CANARY}")
        assert [one.id for one in found] == [anna]
        table = client.query("select * from care")
        assert CANARY not in str(table.rows) and "sealed_key" not in table.columns
    read = client.events("", "prediction.opened").events
    assert [one.data["why"] for one in read] == ["a question of hers"] * 2
    code, said = cli(here, "journal", "show", anna, "--open", "once more")
    assert (code, f"N-{CANARY}" in said) == (0, True), said

    code, said = cli(here, "erase", f"anna-{CANARY}", "--why", "ticket 7")
    assert (code, "1 prediction cannot" in said) == (0, True), said
    assert client.prediction(anna).personal == "erased"
    with pytest.raises(RefusedError) as refused:
        client.open_prediction(anna, "too late")
    assert refused.value.code == "subject-erased"
    with pytest.raises(InputError) as unexplained:
        client.explain(anna)
    # The model reads none of the sealed fields: what it reads is there, and this version has no
    # sample of training rows to compare with.
    assert unexplained.value.code == "no-background"
    assert client.open_prediction(other, "he asked").context["name"] == f"N-{CANARY}"
    assert (client.prove(anna).state, client.prove(other).state) == ("erased", "proven")
    code, said = cli(here, "ledger", "verify", "--prediction", anna)
    assert (code, "nothing" in said) == (0, True), said
    (event,) = client.events("", "subject.erased").events
    name = pseudonym(subjects_of(here.home).secret, f"anna-{CANARY}")
    assert (event.data["predictions"], event.object) == (1, f"subject {name}")
    assert CANARY not in json.dumps(event.data)
    assert files_with(here.home, CANARY) == []

    with pytest.raises(InputError) as unwanted:
        client.record_outcomes("care", [OutcomeGiven(prediction=anna, label="bad")])
    some = [OutcomeGiven(prediction=anna, label="bad"), OutcomeGiven(key="other", label="bad")]
    told = client.tell_outcomes("care", some)
    assert told.recorded == 1
    assert [(one.index, one.reason) for one in told.refused] == [
        (0, "the person whose prediction this is was erased")
    ]
    assert unwanted.value.code == "subject-erased"
    told = httpx.post(
        f"{here.data_url}/v1/services/care/outcomes",
        json={"outcomes": [{"prediction": anna, "label": "bad"}]},
        trust_env=False,
        timeout=60,
    )
    assert (told.status_code, "was erased" in told.text) == (422, True), told.text
    file = tmp_path / "outcomes.csv"
    file.write_text(f"prediction,label\n{other},bad\n{anna},bad\n")
    code, said = cli(here, "outcome", "care", str(file))
    assert (code, "1 outcome recorded" in said, "erased" in said) == (0, True, True), said
    (line,) = (tmp_path / "outcomes.csv.refused.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], "erased" in json.loads(line)["reason"]) == (2, True)


def test_a_person_erased_in_an_open_block_stays_closed_when_it_is_compacted(
    here: RunningInstallation,
) -> None:
    prediction = ask(here, "carl", "c3")
    held = cli(here, "hold", f"carl-{CANARY}", "--why", "case 4")
    assert (held[0], "nobody erases them" in held[1]) == (0, True)
    with pytest.raises(RefusedError, match=r"subject-held: .*case 4"):
        here.client.erase(f"carl-{CANARY}", "ticket 8")
    assert cli(here, "hold", f"carl-{CANARY}", "--end", "--why", "case 4 is closed")[0] == 0
    assert here.client.erase(f"carl-{CANARY}", "ticket 8").predictions == 1
    assert here.client.prediction(prediction).personal == "erased"
    compacted(here, prediction)
    assert here.client.prove(prediction).state == "erased"
    assert here.client.prediction(prediction).personal == "erased"


def test_a_server_killed_while_it_erases_has_done_it_or_does_it(here: RunningInstallation) -> None:
    dora, emil = ask(here, "dora", "c4"), ask(here, "emil", "c5")
    told = len(here.client.events("", "subject.erased").events)
    client = here.client

    def erase() -> None:
        with contextlib.suppress(DoorstepError):
            client.erase(f"dora-{CANARY}", "ticket 9")

    asking = threading.Thread(target=erase)
    asking.start()
    subjects = subjects_of(here.home)
    name = pseudonym(subjects.secret, f"dora-{CANARY}")
    # The key is gone, and the ledger has most likely not been told: it takes a child's start.
    wait_for(lambda: subjects.erased([name]) or None, "the key is destroyed")
    here.kill("control")
    asking.join()
    # And one that dies exactly between the two.
    other = pseudonym(subjects.secret, f"emil-{CANARY}")
    subjects.erase(Erasure(other, SystemClock().now(), "somebody", "ticket 10"))
    here.start()
    wait_for(
        lambda: len(here.client.events("", "subject.erased").events) == told + 2 or None,
        "the ledger is told of both",
    )
    assert subjects.undone() == []
    assert [here.client.prediction(one).personal for one in (dora, emil)] == ["erased"] * 2
    assert here.client.erase(f"dora-{CANARY}", "ticket 9 again").predictions == 1
    assert here.client.verify_ledger().intact
