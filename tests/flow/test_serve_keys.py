"""API keys for real: made, let in, limited and revoked; and a node that others reach wants one."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from control_cases import newest_plan

from doorstep.core.apikey import new_api_key
from doorstep.core.errors import DoorstepError, InputError
from doorstep.core.ids import digest_of
from doorstep.core.plan import ApiKey, KeysPlan
from doorstep.serve.site import SKINS
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.node import RunningNode

ROW = {"x0": 0.5, "x1": 1.0, "x2": -0.25}
FAR = 2**52


def ask(
    url: str, path: str, key: str = "", *, body: Any = ROW, method: str = "POST"
) -> tuple[int, dict[str, str], bytes]:
    data = json.dumps(body).encode() if method == "POST" else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def status(here: RunningInstallation, service: str, key: str = "") -> int:
    return ask(here.data_url, f"/v1/services/{service}/predict", key)[0]


def serve(here: RunningInstallation, service: str, more: str) -> None:
    here.register(service, more=more)
    here.serve(f"{service}@1")


def heard(here: RunningInstallation, holds: Callable[[set[str]], bool], what: str) -> None:
    """Until a plan with such keys (by id) is what every worker goes by."""

    def look() -> bool:
        root, report = newest_plan(here), here.report()
        path = here.home / "plan" / f"{root.keys}.json"
        known = msgspec.json.decode(path.read_bytes(), type=KeysPlan).keys if root.keys else ()
        return report is not None and (
            holds({one.id for one in known}) and report.plan_number >= root.number
        )

    here.wait(look, what)


def files_with(folder: Path, text: str) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_a_key_is_made_lets_in_and_is_revoked(installation: RunningInstallation) -> None:
    here, client = installation, installation.client
    for name in ("keyed", "keyed-other"):
        serve(here, name, "serve: {access: keys}")
    made = client.create_token("keyed", "the till", expires_s=3600)
    heard(here, lambda known: made.token.id in known, "the key is known")
    assert status(here, "keyed", made.secret) == 200
    assert [status(here, "keyed"), status(here, "keyed", made.secret + "x")] == [401, 401]
    assert status(here, "keyed-other", made.secret) == 403
    every = client.create_token("")
    heard(here, lambda known: every.token.id in known, "the key for all is known")
    assert status(here, "keyed-other", every.secret) == 200
    listed = json.loads(ask(here.data_url, "/v1/services", made.secret, method="GET")[2])
    names = {one["service"] for one in listed["services"]}
    assert "keyed" in names
    assert "keyed-other" not in names
    revoked = client.revoke_token(made.token.id, "the till was stolen")
    assert revoked.state == "revoked"
    heard(here, lambda known: made.token.id not in known, "the revoked key is forgotten")
    assert status(here, "keyed", made.secret) == 401
    assert status(here, "keyed", every.secret) == 200
    client.revoke_token(every.token.id, "the test is over")
    states = {one.id: one.state for one in client.tokens()}
    assert [states[one.token.id] for one in (made, every)] == ["revoked", "revoked"]
    said = [one.sentence for one in client.events(kind="token.").events]
    assert f"API key {made.token.id} (the till) revoked: the till was stolen" in said
    assert client.verify_ledger().intact
    assert files_with(here.home, made.secret[17:]) == [], "the key is kept nowhere"


def test_an_expired_key_is_refused(installation: RunningInstallation) -> None:
    here = installation
    serve(here, "keys-expire", "serve: {access: keys}")
    short = here.client.create_token("keys-expire", expires_s=2.0)
    made = here.client.create_token("keys-expire", expires_s=3600)
    # A node that has not heard of a key refuses it as well: that is not what is waited for.
    heard(here, lambda known: made.token.id in known, "both keys are known")
    assert status(here, "keys-expire", made.secret) == 200
    here.wait(lambda: status(here, "keys-expire", short.secret) == 401, "the other has expired")

    def states() -> set[str]:
        return {one.state for one in here.client.tokens("keys-expire")}

    here.wait(lambda: states() == {"live", "expired"}, "the other is said to have expired")


def test_what_is_no_token_is_refused_with_what_was_expected(
    installation: RunningInstallation,
) -> None:
    client = installation.client
    for rate in (1e-300, -1.0, 1e7):
        with pytest.raises(InputError, match="requests per second"):
            client.create_token("", rate=rate)
    for code, act in {
        "no-service": lambda: client.create_token("nowhere"),
        "bad-token": lambda: client.create_token("", expires_s=0.5),
        "no-token-id": lambda: client.revoke_token("x", "why not"),
        "no-reason": lambda: client.revoke_token("x", " "),
    }.items():
        with pytest.raises(DoorstepError) as caught:
            act()
        assert caught.value.code == code


def test_a_revoked_key_does_not_wait_for_a_version_that_is_not_there(tmp_path: Path) -> None:
    home = TestHome(tmp_path / "home")
    name, secret = new_api_key()
    key = ApiKey(id=name, digest=digest_of(secret.encode()), service="", expires_at=FAR)
    contract = home.contract(3)
    bundle = home.bundle(contract)
    home.publish(home.service("loans", {1: bundle}, access="keys"), keys=(key,))
    with RunningNode(home.path, tmp_path / "state") as node:
        node.wait_plan(1)
        path = "/v1/services/loans/predict"
        assert ask(node.data_url, path, secret)[0] == 200
        later = home.service("loans", {1: bundle, 2: "0" * 64}, contract=contract, champion=2)
        home.publish(later)
        RunningInstallation.wait(
            lambda: ask(node.data_url, path, secret)[0] == 401, "the key is refused"
        )
        assert node.report().plan_number == 1, "its new version is still not there"


def test_a_limit_of_a_key_is_429_with_the_time_to_wait(installation: RunningInstallation) -> None:
    here = installation
    serve(here, "keys-limited", 'serve: {access: keys, limit: "1000/s"}')
    made = here.client.create_token("keys-limited", rate=1 / 60)
    path = "/v1/services/keys-limited/predict"
    heard(here, lambda known: made.token.id in known, "the key is known")

    def refused() -> tuple[int, dict[str, str], bytes] | None:
        found = ask(here.data_url, path, made.secret)
        return found if found[0] == 429 else None

    _, headers, body = here.wait(refused, "the key has used up its requests")
    # A quota of a request a minute, in two workers: each has one every two minutes.
    assert 1 <= int(headers["retry-after"]) <= 120
    assert json.loads(body)["error"]["code"] == "rate-limited"
    assert made.token.id not in body.decode()


def test_a_node_that_others_reach_does_not_start_without_a_key_and_wants_one_for_everything(
    tmp_path: Path,
) -> None:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor", "--port", "0"]
    command += ["--health-port", "0", "--host", "0.0.0.0", "--home", str(home.path)]
    found = subprocess.run(
        [*command, "--state", str(tmp_path / "s")], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "no-api-key" in found.stderr
    assert "doorstep token create --all-services" in found.stderr
    name, secret = new_api_key()
    key = ApiKey(id=name, digest=digest_of(secret.encode()), service="", expires_at=FAR)
    number = home.publish(home.service("loans", {1: home.bundle(home.contract(3))}), keys=(key,))
    with RunningNode(home.path, tmp_path / "state", more=["--host", "0.0.0.0"]) as node:
        node.wait_plan(number)
        for skin in SKINS:
            for pattern, handlers in skin.routes.items():
                path = "/" + pattern.replace("{service}", "loans").replace("{version}", "1")
                for method in handlers.keys() - {"GRPC"}:  # no HTTP parser lets it through
                    found = ask(node.data_url, path, method=method)[0]
                    assert found == (200 if pattern in skin.probes else 401), (method, path)
        predict = "/v1/services/loans/predict"
        assert ask(node.data_url, predict, secret)[0] == 200
        number = home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
        node.wait_plan(number)
        assert ask(node.data_url, predict, secret)[0] == 401, "without keys nobody is let in"
