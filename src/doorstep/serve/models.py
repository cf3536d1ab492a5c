"""The models that a worker scores with itself: loaded while they are used, within a budget.

Where all models of a plan fit the budget, all are loaded when it is applied. Else those are that
are used now; the others sleep, and the first request for one has it loaded, while it waits. What
was not used for longest sleeps again when another needs its room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from doorstep.core.errors import DoorstepError, InputError
from doorstep.core.manifest import Manifest
from doorstep.core.plan import ServicePlan, VersionPlan
from doorstep.formats.batch import Scorer
from doorstep.serve.version import load_inline

FIXED_BYTES = 256 * 1024
TIMES_FILE = 6
"""What a loaded ONNX model takes beside its file's size: measured 0.4 MB for a file of 54 kB, and
between 2 and 7 times its size for larger ones."""
Woken = Callable[[str], None]
Key = tuple[str, str]


class Model:
    """One model file. scorer: None while it sleeps. used_ns: when it was asked last, by the
    monotonic clock; pinned: a release is about it, it sleeps after the others."""

    __slots__ = ("cost_bytes", "manifest", "pinned", "plan", "scorer", "used_ns", "waiting")

    def __init__(self, plan: VersionPlan, manifest: Manifest, scorer: Scorer | None = None) -> None:
        self.plan = plan
        self.manifest = manifest
        self.cost_bytes = cost_bytes(manifest)
        self.scorer = scorer
        self.used_ns = 0
        self.pinned = False
        self.waiting: list[Woken] = []


class Models:
    """All models of a worker. `prepare` runs beside the loop, in a thread; the rest in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, budget_bytes: int) -> None:
        self._loop = loop
        self._budget_bytes = budget_bytes
        self._models: dict[Key, Model] = {}
        self._bundles = Path()

    def get(self, version: VersionPlan) -> Model:
        return self._models[version.bundle, version.form]

    def prepare(
        self, bundles: Path, service: ServicePlan, manifests: dict[str, Manifest]
    ) -> dict[int, Exception]:
        """Know the models of a service, of whose bundles `manifests` are, and load them if it is
        awake or there is room. Answers what was wrong with each version that cannot be loaded.

        Raises: InputError (`memory-budget`).
        """
        self._bundles = bundles
        failed: dict[int, Exception] = {}
        inline = [
            one for one in service.versions if one.placement == "inline" and one.bundle in manifests
        ]
        models = [self._known(one, manifests[one.bundle]) for one in inline]
        cost = sum(one.cost_bytes for one in models)
        if cost > self._budget_bytes:
            raise InputError(
                "memory-budget",
                f"{service.service} needs {_mb(cost)} MB for {_said(models)}; a worker of this "
                f"node has {_mb(self._budget_bytes)} MB for models",
                "give the node more with --memory, or fewer workers",
            )
        awake = any(one.scorer is not None for one in models)
        for one in models:
            one.pinned = one.pinned or service.release is not None
            if one.scorer is None and (
                awake or self._awake_bytes + one.cost_bytes <= self._budget_bytes
            ):
                try:
                    one.scorer = load_inline(bundles, one.plan, one.manifest)
                except Exception as error:  # noqa: BLE001  whatever a model raises when it is loaded
                    failed[one.plan.number] = error
        return failed

    def keep_only(self, services: Iterable[ServicePlan]) -> None:
        """Let go of what no plan names, and of what is too much."""
        pinned: dict[Key, bool] = {}
        for service in services:
            for one in service.versions:
                key = (one.bundle, one.form)
                pinned[key] = pinned.get(key, False) or service.release is not None
        self._models = {key: one for key, one in self._models.items() if key in pinned}
        for name, model in self._models.items():
            model.pinned = pinned[name]
        self._fit()

    def wake(self, model: Model, woken: Woken) -> None:
        """Have it loaded; `woken` is told in a later turn of the loop, with what went wrong."""
        model.waiting.append(woken)
        if len(model.waiting) == 1:
            self._loop.create_task(self._wake(model))

    async def _wake(self, model: Model) -> None:
        error = ""
        try:
            model.scorer = await self._loop.run_in_executor(
                None, load_inline, self._bundles, model.plan, model.manifest
            )
        except DoorstepError as failed:
            error = failed.message
        except Exception as failed:  # noqa: BLE001  whatever loading raises, callers wait
            error = f"{type(failed).__name__}: {failed}"
        waiting, model.waiting = model.waiting, []
        model.used_ns = int(self._loop.time() * 1e9)
        for woken in waiting:
            woken(error)
        self._fit()

    def _fit(self) -> None:
        for one in to_sleep(list(self._models.values()), self._budget_bytes):
            one.scorer = None

    def _known(self, version: VersionPlan, manifest: Manifest) -> Model:
        key = (version.bundle, version.form)
        if key not in self._models:
            self._models[key] = Model(version, manifest)
        return self._models[key]

    @property
    def _awake_bytes(self) -> int:
        return sum(one.cost_bytes for one in self._models.values() if one.scorer is not None)


def to_sleep(models: Iterable[Model], budget_bytes: int) -> list[Model]:
    """Which must sleep for the others to fit: the longest unused first, pinned ones last."""
    awake = sorted(
        (one for one in models if one.scorer is not None), key=lambda one: (one.pinned, one.used_ns)
    )
    over = sum(one.cost_bytes for one in awake) - budget_bytes
    found = []
    for one in awake[:-1]:
        if over <= 0:
            break
        over -= one.cost_bytes
        found.append(one)
    return found


def cost_bytes(manifest: Manifest) -> int:
    """About what the ONNX form of this version takes in memory."""
    file = manifest.onnx.file if manifest.onnx is not None else manifest.native.file
    size = next((entry.size for entry in manifest.files if entry.path == file), 0)
    return FIXED_BYTES + TIMES_FILE * size


def _said(models: list[Model]) -> str:
    return " + ".join(f"version {one.plan.number} ({_mb(one.cost_bytes)})" for one in models)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"
