"""What the flow tests of the control plane share: rows, traffic, bundles that are not right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import httpx
import msgspec

from doorstep.core.plan import PlanPointer, PlanRoot
from doorstep.kernel.event import DOORSTEP
from doorstep.kernel.keys import load_token
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation, write_holdout
from fakes.load import Load, Tally


def path_of(service: str) -> str:
    return f"/v1/services/{service}/predict"


def body_of(number: int) -> bytes:
    """Each request a unit of its own; every seventh row makes a model that `raises` do so."""
    row = {"x0": 3.0 - number % 7 if number % 7 else -1.0, "x1": 0.5, "x2": 1.0}
    return json.dumps({"rows": [row], "context": {"id": f"k{number}"}}).encode()


def traffic(here: RunningInstallation, service: str, *, retry: bool = False) -> Load:
    return Load(here.data_url, path_of(service), body_of, connections=4, retry=retry)


def assert_no_request_failed(tally: Tally) -> None:
    assert set(tally.statuses) == {200}
    assert (tally.dropped, tally.gave_up) == (0, 0)


def assert_exactly_once(here: RunningInstallation, tally: Tally) -> None:
    """Every answer that a client got is in the journal once, with the version that it named."""
    found = here.journaled()
    times = Counter(name for name, _ in found)
    assert {name: times[name] for name in tally.answered} == dict.fromkeys(tally.answered, 1)
    versions = dict(found)
    wrong = {name for name, version in tally.answered.items() if versions[name] != version}
    assert wrong == set()


def newest_plan(here: RunningInstallation) -> PlanRoot:
    """The plan that was published last; the node may not have it yet."""
    folder = here.home / "plan"
    pointer = msgspec.json.decode((folder / "current").read_bytes(), type=PlanPointer)
    return msgspec.json.decode((folder / f"{pointer.root}.json").read_bytes(), type=PlanRoot)


def last_asked_for(here: RunningInstallation) -> int:
    """The newest event that somebody asked for, -1 if there is none: a release that another test
    left behind may go on by itself at any time."""
    events = here.client.events().events
    return next((one.sequence for one in events if one.actor != DOORSTEP.id), -1)


class Bundle:
    """A tiny bundle on disk, to be broken before it is sent."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        maker = TestHome(folder / "maker")
        self.digest = maker.bundle(TestHome.contract(3), seed=seed)
        self.folder = maker.path / "bundles" / self.digest
        self.holdout = write_holdout(folder / "holdout.parquet", seed)
        self.holdout_file = folder / "holdout.parquet"

    @property
    def manifest(self) -> bytes:
        return (self.folder / "manifest.json").read_bytes()

    def rewritten(self, change: tuple[str, str]) -> bytes:
        """Its manifest with one text replaced; every digest inside is as before."""
        text = self.manifest.decode()
        assert change[0] in text
        return text.replace(*change).encode()

    def upload(self, here: RunningInstallation) -> None:
        here.client.upload(self.folder, {self.holdout: self.holdout_file})


def put(here: RunningInstallation, digest: str, content: bytes):
    """PUT a file as any client could, without the SDK's care."""
    token = load_token(here.home / "keys")
    return httpx.put(
        f"{here.console_url}/api/v1/blobs/{digest}",
        content=content,
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )


class Unchanged:
    """Within it nothing that was asked for comes into the ledger, and no bundle or data file."""

    def __init__(self, here: RunningInstallation) -> None:
        self._here = here

    def _look(self) -> tuple[int, list[str]]:
        folders = [self._here.home / name for name in ("bundles", "data")]
        files = [str(path) for folder in folders for path in folder.rglob("*")]
        return last_asked_for(self._here), sorted(files)

    def __enter__(self) -> None:
        self._before = self._look()

    def __exit__(self, *failed: object) -> None:
        if failed[0] is None:
            assert self._look() == self._before
