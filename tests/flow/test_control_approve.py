"""Four eyes over HTTP, by people with tokens of their own: who may, and whose yes counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from doorstep.client import Client, connect
from doorstep.core.errors import DoorstepError, ForbiddenError, RefusedError, SignInError
from doorstep.core.people import Scope
from doorstep.kernel.keys import load_token
from doorstep.testing.installation import RunningInstallation, service_file

LONG = "{shadow: {requests: 0}, steps: [20%, 50%], dwell: 10m, bake: 10m}"
FOUR_EYES = "approve: {people: 2}"


class People:
    """Clients of people, each with a new token: `people("bea")`, `people("ana", "release")`."""

    def __init__(self, here: RunningInstallation, stack: ExitStack) -> None:
        self._here = here
        self._stack = stack
        self.tokens = {"local": load_token(here.home / "keys")}

    def __call__(self, name: str, scope: Scope = "approve") -> Client:
        token = self.tokens[name] = self._here.client.create_person(name, scope).secret
        return self._stack.enter_context(connect(home=self._here.home, token=token))


@pytest.fixture
def people(installation: RunningInstallation) -> Iterator[People]:
    with ExitStack() as stack:
        yield People(installation, stack)


def refused(what: Callable[[], object], code: str, kind: type[DoorstepError] = RefusedError) -> str:
    with pytest.raises(kind) as caught:
        what()
    assert caught.value.code == code
    return caught.value.message


def given(client: Client, version: str) -> list[str]:
    return [one.by for one in client.approve(version, "seen").given]


def test_a_release_waits_for_people_who_neither_registered_nor_ask(
    installation: RunningInstallation, people: People
):
    here, client, version = installation, installation.client, "eyes@1"
    bea, cem = people("bea"), people("cem", "release")
    here.register("eyes", release=LONG, more=FOUR_EYES)
    refused(lambda: bea.approve(version, "seen"), "gate-not-passed")
    client.run_gates(version)
    said = refused(lambda: client.start_release(version), "not-approved")
    assert said == (
        "eyes@1 needs the yes of 2 people who neither registered it (local) nor ask for its "
        "release (local); nobody gave it"
    )
    refused(lambda: client.approve(version, "my own"), "own-version")
    refused(lambda: bea.approve(version, " "), "no-reason")
    shown = client.service("eyes").unapproved
    assert shown is not None and (shown.version, shown.by, shown.missing) == (version, "local", 2)
    assert client.version(version).unapproved == shown
    assert client.version(version).approved_by == ()
    for _ in range(2):
        assert given(bea, version) == ["bea"], "twice is once"
    shown = client.service("eyes").unapproved
    assert shown is not None and shown.missing == 1
    assert refused(lambda: client.start_release(version), "not-approved").endswith("1 gave it: bea")
    assert given(people("bea"), version) == ["bea"], "two tokens are one person"
    assert given(cem, version) == ["bea", "cem"]
    assert client.service("eyes").unapproved is client.version(version).unapproved is None
    refused(lambda: bea.withdraw_approval(version, "why", "cem"), "not-your-yes", ForbiddenError)
    assert client.version(version).approved_by == ("bea", "cem")
    assert [one.by for one in bea.withdraw_approval(version, "I was wrong").given] == ["cem"]
    refused(lambda: bea.withdraw_approval(version, "again"), "nothing-given")
    shown = client.version(version).unapproved
    assert shown is not None and shown.missing == 1
    assert client.withdraw_approval(version, "her token was stolen", "cem").given == ()
    assert given(bea, version) == ["bea"] and given(cem, version) == ["bea", "cem"]
    said = refused(lambda: cem.start_release(version), "not-approved")
    assert said.endswith("1 gave it: bea; only bea could"), "who asks does not count"
    here.settled(client.start_release(version).id)
    first = client.history("eyes").served[0]
    assert (first.asked_by, first.approved_by) == ("local", ("bea", "cem"))


def test_a_yes_dies_with_what_the_gates_rested_on_and_holds_back_a_promotion(
    installation: RunningInstallation, people: People
):
    here, client = installation, installation.client
    bea = people("bea", "release")
    here.register("dies", release=LONG)
    here.serve("dies@1")
    client.promote("dies", "the first")
    here.register("dies", seed=2, release=LONG, more="approve: {people: 1}")
    client.run_gates("dies@2")
    bea.approve("dies@2", "seen")
    gates = 'approve: person\ngates: {quality: ["auc >= 0.01"]}'
    client.apply(service_file("dies", LONG, gates))
    refused(lambda: client.start_release("dies@2"), "gate-outdated")
    client.run_gates("dies@2")
    refused(lambda: client.start_release("dies@2"), "not-approved")
    bea.approve("dies@2", "seen")
    client.apply(service_file("dies", LONG.replace("20%", "40%"), gates))
    refused(lambda: client.start_release("dies@2"), "not-approved")
    bea.approve("dies@2", "seen, at 40 %")
    release = here.settled(client.start_release("dies@2").id)
    refused(lambda: bea.promote(release.id, "enough"), "not-approved")
    assert client.release(release.id).state == "step"
    assert client.promote(release.id, "enough").state == "done"
    assert client.verify_ledger().intact


def test_a_file_that_asks_fewer_people_holds_only_once_those_people_said_yes_to_it(
    installation: RunningInstallation, people: People
):
    here, client = installation, installation.client
    bea, cem = people("bea"), people("cem")
    here.register("loose", release=LONG, more=FOUR_EYES)
    client.run_gates("loose@1")

    def diff(approve: str) -> set[tuple[str, str, bool]]:
        found = client.diff(service_file("loose", LONG, approve)).changes
        return {(one.key, one.takes_effect, one.loosens) for one in found}

    waits = {("approve.people", "once 2 other people say yes to it", True)}
    assert diff("approve: none") == waits
    client.apply(service_file("loose", LONG, "approve: none"))
    assert diff("approve: person") == waits, "against the rule in force, not against what waits"
    assert diff("approve: {people: 3}") == {("approve.people", "at once", False)}
    mixed = diff("approve: person\nmay: {approve: [bea]}")
    assert mixed == waits | {("may.approve", "at once", False)}
    rule = client.service("loose").rule
    assert (rule.people, rule.waiting, rule.needs, rule.by) == (2, 2, 2, "local")
    said = refused(lambda: client.start_release("loose@1"), "not-approved")
    assert "2 people" in said
    assert said.endswith("revision 2 of its file asks for less and does not hold yet")
    refused(lambda: client.approve_revision("loose", 2, "mine"), "own-revision")
    refused(lambda: bea.approve_revision("loose", 1, "seen"), "nothing-waits")
    assert bea.approve_revision("loose", 2, "seen").given == ("bea",)
    refused(lambda: client.start_release("loose@1"), "not-approved")
    rule = cem.approve_revision("loose", 2, "a pilot")
    assert (rule.people, rule.waiting) == (0, 0)
    here.settled(client.start_release("loose@1").id)
    said = [
        one.sentence for one in client.history("loose").events if "ask for less" in one.sentence
    ]
    assert said[0] == "revision 2 of the service file of loose may ask for less: a pilot"


def test_only_who_is_named_approves_and_promotes(installation: RunningInstallation, people: People):
    here, client = installation, installation.client
    ana, bea, dee = people("ana", "release"), people("bea"), people("dee", "release")
    named = "approve: person\nmay: {approve: bea, promote: [ana]}"
    here.register("named", release=LONG, more=named)
    client.run_gates("named@1")
    said = refused(lambda: dee.approve("named@1", "seen"), "may-not", ForbiddenError)
    assert said == (
        "dee may not approve a version of named; may.approve of its service file names bea"
    )
    bea.approve("named@1", "seen")
    here.settled(client.start_release("named@1").id)
    for other in (dee, client):
        refused(lambda other=other: other.promote("named", "mine"), "may-not", ForbiddenError)
    refused(lambda: bea.promote("named", "mine"), "out-of-scope", ForbiddenError)
    assert ana.promote("named", "the first").state == "done"
    client.apply(service_file("named", LONG, "approve: person"))
    here.register("named", seed=2, release=LONG, more="approve: person")
    client.run_gates("named@2")
    refused(lambda: dee.approve("named@2", "seen"), "may-not", ForbiddenError)


def test_what_was_taken_back_comes_again_only_as_it_would_be_promoted(
    installation: RunningInstallation, people: People
):
    here, client, eyes = installation, installation.client, "approve: person"
    hal, ivy = people("hal"), people("ivy")
    here.register("again", release=LONG)
    here.serve("again@1")
    client.promote("again", "the first")
    here.register("again", seed=2, release=LONG, more=eyes)
    client.run_gates("again@2")
    hal.approve("again@2", "seen")
    here.settled(client.start_release("again@2").id)
    client.promote("again", "enough")
    assert hal.rollback("again", "it is unfair").champion == 1
    refused(lambda: hal.rollback("again", "mine", 2), "not-approved")
    assert client.service("again").champion == 1
    ivy.rollback("again", "hal is right that it was fair", 2)
    assert client.service("again").champion == 2
    client.apply(service_file("again", LONG, f"{eyes}\nmay: {{promote: [ana]}}"))
    ivy.rollback("again", "no, it is not", 1)
    refused(lambda: ivy.rollback("again", "yes", 2), "may-not", ForbiddenError)


def test_who_approves_changes_nothing_else_and_is_out_when_the_token_is_revoked(
    installation: RunningInstallation, people: People
):
    client = installation.client
    installation.register("scope", release=LONG)
    eva = people("eva")
    assert eva.service("scope").service == "scope"
    for what in (
        lambda: eva.run_gates("scope@1"),
        lambda: eva.start_release("scope@1"),
        lambda: eva.apply(service_file("scope", LONG, "risk: low")),
        lambda: eva.create_person("eva-two"),
        lambda: eva.erase("somebody", "why"),
    ):
        refused(what, "out-of-scope", ForbiddenError)
    with signed_in(installation, people.tokens["eva"]) as browser:
        assert "<b>eva</b>" in browser.get("/").text
        token = next(one for one in client.tokens() if one.name == "eva")
        client.revoke_token(token.id, "left")
        assert browser.get("/").status_code == 401, "her sessions end as well"
    refused(lambda: eva.status(), "token-over", SignInError)


def test_people_approve_in_the_console_under_their_own_names(
    installation: RunningInstallation, people: People
):
    here, client = installation, installation.client
    here.register("pages", release=LONG, more="approve: person")
    client.run_gates("pages@1")
    where = "/services/pages/versions/1"
    people("fay")
    for who, status in (("local", 409), ("fay", 303)):
        with signed_in(here, people.tokens[who]) as browser:
            page = browser.get(where).text
            form = {"csrf": csrf_of(page), "why": "looks right"}
            assert browser.post(f"{where}/approve", data=form).status_code == status
            said = "pages@1 may be released: looks right"
            assert (said in browser.get(where).text) == (who == "fay")
            assert ("still needs the yes of 1 person" in browser.get(where).text) == (who != "fay")
            if who == "fay":
                form = {"csrf": csrf_of(page), "why": "not yet"}
                assert browser.post(f"{where}/withdraw", data=form).status_code == 303
                page = browser.get(where).text
                assert "the yes of fay to pages@1 taken back: not yet" in page
                assert "still needs the yes" in page and "Take your yes back" not in page
                assert browser.post(f"{where}/approve", data=form).status_code == 303
                assert "Take your yes back" in browser.get(where).text
    here.settled(client.start_release("pages@1").id)
    assert client.history("pages").served[0].approved_by == ("fay",)


@contextmanager
def signed_in(here: RunningInstallation, token: str) -> Iterator[httpx.Client]:
    """A browser whose user typed this token."""
    with httpx.Client(base_url=here.console_url, headers={"accept": "text/html"}) as browser:
        assert browser.get("/").status_code == 401
        refusal = browser.post("/sign-in", data={"token": "dsp_0"})
        assert (refusal.status_code, "not-signed-in" in refusal.text) == (401, True)
        elsewhere = {"sec-fetch-site": "cross-site"}
        form = {"token": token}
        assert browser.post("/sign-in", data=form, headers=elsewhere).status_code == 403
        assert browser.post("/sign-in", data=form).status_code == 303
        yield browser


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found is not None, page
    return found[1]


def test_commands_say_who_is_missing_what_runs_and_refusals_before_warnings(
    installation: RunningInstallation, people: People, tmp_path: Path
):
    here = installation
    people("gus")
    here.register("words", release=LONG)
    here.serve("words@1")
    here.register("words", seed=2, release=LONG)
    (tmp_path / "doorstep.yaml").write_text(service_file("words", LONG, "approve: {people: 9}"))

    def shell(*words: str, by: str = "local", is_answer: bool = False) -> tuple[int, str]:
        environ = {**os.environ, "DOORSTEP_HOME": str(here.home), "COLUMNS": "200"}
        command = [sys.executable, "-m", "doorstep.cli.main", *words]
        done = subprocess.run(
            command, env=environ | {"DOORSTEP_TOKEN": people.tokens[by]}, cwd=tmp_path,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout if is_answer else done.stderr

    code, said = shell("check")
    assert code == 0
    assert "approve.people is 9: 9 people who neither registered a version nor ask" in said
    assert "gus" in said
    assert "doorstep token create --person NAME" in said
    code, said = shell("token", "create", "--person", "eve", "--rate", "5/s")
    assert (code, "only keys have one" in said) == (2, True)
    code, said = shell("release", "pause")
    assert (code, "words@1 (bake" in said) == (2, True)
    code, said = shell("release", "start", "words@2")
    assert (code, said.startswith("✗ gate-not-passed")) == (1, True), "before any warning"
    code, said = shell("release", "promote", "words", "--why", "mine", by="gus")
    assert (code, said.startswith("✗ out-of-scope: gus came with a token")) == (5, True)
    code, said = shell("apply")
    assert (code, "is in effect" in said) == (0, True)
    (tmp_path / "doorstep.yaml").write_text(service_file("words", LONG, "approve: none"))
    code, said = shell("apply")
    assert "revision 3 of words is in effect, but for who must say yes" in said
    assert "until then holds approve.people 9" in said
    assert 'next: doorstep approve words --revision 3 --why "..."' in said
    code, said = shell("status", "words", is_answer=True)
    assert (
        "waits for a yes: revision 3 of words (applied by local, 9 missing); next: doorstep" in said
    )
    code, said = shell("approve", "words", "--revision", "3", "--why", "seen", by="gus")
    expected = "1 of 9 said yes: gus; until then holds approve.people 9"
    assert (code, expected in said) == (0, True)
    for options in (("--by", "gus"), ("--revision", "3", "--withdraw")):
        code, said = shell("approve", "words", *options, "--why", "seen")
        assert (code, "bad-option" in said) == (2, True)
