"""A version that is resident in a front worker: how its rows are cut, and how scores read.

The batch that a service collects has the columns of the service's contract. A version reads the
columns of its own; when they are the same, nothing is copied.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError
from doorstep.core.manifest import Manifest, decode_manifest
from doorstep.core.plan import VersionPlan
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.load import load_scorer, score_columns
from doorstep.serve.engine_client import EngineClient


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a version's columns are among the service's. None: all of them, in order; -1: the
    service does not have it, it is missing."""

    numbers: tuple[int, ...] | None
    texts: tuple[int, ...] | None

    def batch(self, numbers: NDArray[np.float64], texts: Sequence[tuple[Any, ...]]) -> Batch:
        """numbers: [rows, service columns]; texts: per row, empty if the service has none. Answers
        the version's own batch."""
        if self.numbers is not None:
            padded = np.hstack([numbers, np.full((len(numbers), 1), np.nan)])
            numbers = padded[:, self.numbers]
        if self.texts is None:
            return Batch(numbers, [list(column) for column in zip(*texts, strict=True)])
        if not texts:
            texts = [()] * len(numbers)
        return Batch(
            numbers, [[row[at] if at >= 0 else None for row in texts] for at in self.texts]
        )


class Model(Protocol):
    """What a version of a front worker scores with; see `models.Model`."""

    scorer: Scorer | None
    used_ns: int


class Waker(Protocol):
    """Loads sleeping models; see `models.Models.wake`."""

    def wake(self, model: Any, woken: Callable[[str], None], /) -> None: ...


class Version:
    """number: of the service; name: the same as text, header: as it ends the headers of an answer.
    source: what its scores depend on, besides the row. outputs: names of
    the score columns. layout: of its records in this process's journal; killed: it must not be
    asked; both once its service is made. model: for a version that is scored here; else engine.
    places: of the service's outputs among its own, None where they are the same, () where they are
    others."""

    def __init__(
        self,
        plan: VersionPlan,
        manifest: Manifest,
        columns: Columns,
        model: Model | None,
        engine: EngineClient | None,
    ) -> None:
        self.number = plan.number
        self.name = str(plan.number)
        self.header = f"\r\ndoorstep-version: {plan.number}\r\n"
        self.source = (plan.bundle, plan.form)
        self.layout = 0
        self.killed = False
        self.places: tuple[int, ...] | None = None
        self.manifest = manifest
        self.labels = manifest.labels
        self.outputs = manifest.labels or ("value",)
        self.probabilities = probabilities_of(manifest.labels)
        self.width = score_columns(manifest)
        self.pack = struct.Struct(f"{self.width}d").pack
        self.columns = columns
        self.model = model
        self.engine = engine
        binary = manifest.task == "binary"
        self._positive = manifest.labels.index(manifest.positive) if binary else None
        self._threshold = manifest.threshold

    @property
    def ready(self) -> bool:
        return self.engine is None or self.engine.available

    def answers(self, scores: list[list[float]]) -> list[str | float]:
        """Per row the label, or the value of a regression. Ties take the first label."""
        labels, at = self.labels, self._positive
        if at is not None:
            least, over, under = self._threshold, labels[at], labels[1 - at]
            return [over if row[at] >= least else under for row in scores]
        if labels:
            return [labels[row.index(max(row))] for row in scores]
        return [row[0] for row in scores]

    def arrange(self, outputs: tuple[str, ...]) -> None:
        """Be told the service's outputs, in whose order scores travel that have no names."""
        if outputs == self.outputs:
            self.places = None
        elif set(outputs) == set(self.outputs):
            self.places = tuple(self.outputs.index(one) for one in outputs)
        else:
            self.places = ()

    def arranged(self, scores: list[float]) -> list[float] | None:
        """Scores in the order of the service's outputs; None if they are others."""
        if self.places is None:
            return scores
        return [scores[at] for at in self.places] or None

    def is_valid(self, scores: list[list[float]], rows: int) -> bool:
        """Whether these are finite numbers of the right shape."""
        if len(scores) != rows:
            return False
        width = self.width
        return all(len(row) == width and all(map(math.isfinite, row)) for row in scores)


def probabilities_of(labels: tuple[str, ...]) -> Callable[..., Any]:
    """Makes of scores what encodes as {label: score}: a struct, which is made much faster than a
    dict, or a dict where a label has characters that the name of a struct's field must not have."""
    fields = {f"p{at}": label for at, label in enumerate(labels)}
    kinds = [(name, float) for name in fields]
    try:
        return msgspec.defstruct("Probabilities", kinds, rename=fields, gc=False)
    except ValueError:
        return lambda *scores: dict(zip(labels, scores, strict=True))


def read_manifest(bundles: Path, digest: str) -> Manifest:
    """The manifest of a bundle. Raises: InputError (`bundle-missing`, `bad-manifest`)."""
    path = bundles / digest / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "bundle-missing", f"bundle {digest[:12]} cannot be read: {error.strerror}"
        ) from None
    return decode_manifest(data, digest)


def load_inline(bundles: Path, plan: VersionPlan, manifest: Manifest) -> Scorer:
    """The scorer of a version, warm. Raises: InputError, RefusedError."""
    scorer = load_scorer(bundles / plan.bundle, manifest, plan.form, trusted=plan.trusted)
    warm_up(scorer, manifest.contract)
    return scorer


def warm_up(scorer: Scorer, contract: Contract) -> None:
    """Score one made-up row, so that the first caller does not pay for what is made lazily."""
    numbers = np.zeros((1, len(contract.numbers)))
    texts: list[list[str | None]] = [
        [field.values[0] if field.values else "a"] for field in contract.texts
    ]
    try:
        scorer.score(Batch(numbers, texts))
    except Exception:  # noqa: BLE001  the model may refuse a made-up row; real rows will tell
        return


def columns_of(service: Contract, own: Contract) -> Columns:
    """Raises: InputError (`contract-mismatch`) if the version requires what the service has not."""
    fields = (*service.inputs, *service.context)
    number_names = [one.name for one in service.numbers]
    number_names += [one.name for one in service.context if one.is_number]
    text_names = [one.name for one in fields if not one.is_number]
    for field in own.inputs:
        known = number_names if field.is_number else text_names
        if field.required and field.name not in known:
            raise InputError(
                "contract-mismatch",
                f"the version reads {field.name!r} ({field.type}), which the contract of the "
                "service has not",
                "add it to the contract, or release another version",
            )
    numbers = _positions([one.name for one in own.numbers], number_names)
    texts = _positions([one.name for one in own.texts], text_names)
    return Columns(numbers, texts)


def _positions(own: list[str], known: list[str]) -> tuple[int, ...] | None:
    if own == known:
        return None
    return tuple(known.index(name) if name in known else -1 for name in own)
