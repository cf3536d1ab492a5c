"""What the demo runs in: a home, a folder with the example, `doorstep up`, clients that send."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec

import doorstep
from doorstep.cli.asking import records
from doorstep.cli.demo_traffic import Case, Mix, Traffic, cases_of, larger_half
from doorstep.cli.output import Progress
from doorstep.cli.running import start_detached, stop
from doorstep.client import Client
from doorstep.compose.up import Ready
from doorstep.core.errors import MissingExtraError, NotFoundError, RefusedError, WaitedError
from doorstep.formats.table import read_table
from doorstep.kernel.home_lock import holder_of
from doorstep.kernel.keys import load_token
from doorstep.kernel.settings import Port, Ports, Settings

SERVICE = "loans"
LABEL = "credit_risk"
CONTEXT = ("sex",)
SHIFTED = ("amount", "duration")
"""The columns whose larger half the shifted traffic is drawn from."""
NEW_PRODUCT = {"purpose": "vacation"}
NEW_PRODUCT_SHARE = 0.05
RATE_S = 200.0
"""Requests a second: two cores also train, convert, gate and judge."""
WORKERS = 2
POLL_S = 0.2
EXAMPLE_FILES = ("train.py", "doorstep.yaml", "README.md", "data")
NEEDED = ("sklearn", "pandas", "skops", "skl2onnx")
FoundT = TypeVar("FoundT")


class Mixes(msgspec.Struct, frozen=True):
    """known: held-out applications. with_new: the same, and some for a product that no training row
    has. shifted: other people: those who ask for much and for long."""

    known: Mix
    with_new: Mix
    shifted: Mix


class World:
    """Started by `open_world`, ended by `close`. folder: the copy of the example that it works
    in."""

    def __init__(self, home: Path, ready: Ready, seed: int, shown: Progress) -> None:
        self.home = home
        self.folder = home / SERVICE
        self.ready = ready
        self.seed = seed
        self.shown = shown
        self.client = Client(ready.console_url, load_token(home / "keys"))
        self.traffic = Traffic(ready.data_url, SERVICE, seed)
        self._mixes: Mixes | None = None

    @property
    def service_file(self) -> Path:
        return self.folder / "doorstep.yaml"

    def mixes(self) -> Mixes:
        """What the clients send; there once the data is split."""
        if self._mixes is None:
            cases = read_cases(self.folder / "loans-holdout.csv")
            self._mixes = Mixes(
                Mix(cases=cases),
                Mix(cases=cases, changed=NEW_PRODUCT, share=NEW_PRODUCT_SHARE),
                Mix(cases=larger_half(cases, SHIFTED)),
            )
        return self._mixes

    def wait_for(
        self,
        what: str,
        look: Callable[[], FoundT | None],
        *,
        expected_s: float,
        timeout_s: float = 60.0,
    ) -> FoundT:
        """What `look` finds, once it finds something. Raises: WaitedError (`not-as-told`)."""
        started_s = time.monotonic()
        while True:
            found = look()
            if found is not None:
                return found
            passed_s = time.monotonic() - started_s
            if passed_s > timeout_s:
                raise WaitedError(
                    "not-as-told",
                    f"{what}: not within {timeout_s:g} s; clients saw {say_tally(self.traffic)}",
                    f"look into {self.home / 'run'}",
                )
            self.shown.stage(what, min(0.99, passed_s / expected_s))
            time.sleep(POLL_S)

    def is_up(self) -> bool:
        return holder_of(self.home) is not None

    def close(self) -> None:
        """Stop everything that was started."""
        self.traffic.stop()
        self.client.close()
        stop(self.home)


def say_tally(traffic: Traffic) -> str:
    """What the clients saw so far, in words."""
    seen = traffic.tally()
    first = f" (the first: {seen.first_failure})" if seen.first_failure else ""
    return f"{seen.answered:,} answers and {seen.failed:,} failures{first}"


def open_world(home: Path, seed: int, shown: Progress) -> World:
    """Start `doorstep up` over `home` on free ports, and lay out the example in it.

    Raises: MissingExtraError, RefusedError (`home-in-use`, `demo-ran-here`), NotFoundError
    (`no-example`), and what `up` raises.
    """
    require_extras()
    source = example_folder()
    folder = home / SERVICE
    if folder.exists():
        raise RefusedError(
            "demo-ran-here",
            f"{folder} is there already; the demo begins with an empty home",
            "name another with --home, or leave it out",
        )
    shown.stage("starting the control plane and a node")
    any_port = Port(0, named=True)
    ports = Ports(data=any_port, health=any_port, control=any_port)
    settings = Settings(home=home, environment="demo", database_url="", url="", ports=ports)
    with ExitStack() as stack:
        stack.callback(stop, home)  # Also when a person has had enough of waiting.
        ready = start_detached(settings, WORKERS)
        folder.mkdir()
        for name in EXAMPLE_FILES:
            copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
            copy(source / name, folder / name)
        world = World(home, ready, seed, shown)
        stack.pop_all()
    world.traffic.start()
    return world


def require_extras() -> None:
    """Raises: MissingExtraError."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError.of(name, "demo", "the demo")


def example_folder() -> Path:
    """Where the loans example lies: inside the installed package, or beside it in a checkout.

    Raises: NotFoundError (`no-example`).
    """
    package = Path(doorstep.__file__).parent
    for found in (package / "examples" / SERVICE, package.parents[1] / "examples" / SERVICE):
        if (found / "train.py").is_file():
            return found
    raise NotFoundError(
        "no-example",
        f"the loans example is neither in {package} nor beside it",
        "pip install --force-reinstall doorstep[demo]",
    )


def read_cases(path: Path) -> tuple[Case, ...]:
    """The rows of a file as applications."""
    return cases_of(list(records(read_table(path))), LABEL, CONTEXT)
