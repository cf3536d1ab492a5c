"""Small real versions: a logistic model on two columns, in whatever unit it was trained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from doorstep.core.contract import Contract, Field
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    ColumnProfile,
    DataSource,
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    Profile,
)
from doorstep.formats.batch import Batch
from doorstep.formats.columns import Table, table_digest
from doorstep.gate.reference import SEEN_METRIC
from doorstep.gate.subject import PROFILE, Subject
from doorstep.stats.codes import code_numbers, count_codes, quantile_edges
from fakes.tables import column_of

CONTRACT = Contract(
    inputs=(
        Field(name="credit_amount", type="float", range_min=250, range_max=20000),
        Field(name="duration", type="int"),
    ),
    context=(Field(name="sex", type="category", protected=True, required=False),),
)


class Logistic:
    """Score of "bad" from both columns. amount_unit: what one unit of the amount is to it."""

    def __init__(self, amount_unit: float = 1.0, noise: float = 0.0) -> None:
        self.amount_unit, self.noise = amount_unit, noise

    def score(self, batch: Batch) -> np.ndarray:
        amount, duration = batch.numbers[:, 0] * self.amount_unit, batch.numbers[:, 1]
        wobble = self.noise * np.sin(12.9 * amount + 78.2 * duration)
        z = (amount - 2300) / 1000 + (duration - 24) / 12 + wobble
        bad = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
        return np.column_stack([bad, 1 - bad])


def rows_of(seed: int, rows: int) -> Table:
    generator = np.random.default_rng(seed)
    amount = np.exp(generator.normal(np.log(2300), 0.6, rows)).clip(250, 20000).round()
    duration = generator.integers(6, 48, rows)
    z = (amount - 2300) / 1000 + (duration - 24) / 12
    bad = generator.random(rows) < 1 / (1 + np.exp(-z))
    sex = np.where(generator.random(rows) < 0.4, "f", "m")
    return Table(
        (
            column_of("credit_amount", amount, "float"),
            column_of("duration", duration, "int"),
            column_of("sex", sex.tolist(), "text"),
            column_of("risk", np.where(bad, "bad", "good").tolist(), "text"),
        ),
        rows,
    )


def profile_of(table: Table, amount_factor: float = 1.0) -> Profile:
    columns = []
    for name, factor in (("credit_amount", amount_factor), ("duration", 1.0)):
        values = table.column(name).as_numbers() * factor
        edges = quantile_edges(values)
        columns.append(
            ColumnProfile(
                name=name,
                type="float",
                edges=tuple(edges.tolist()),
                counts=tuple(count_codes(code_numbers(values, edges)).tolist()),
                nulls=0,
            )
        )
    return Profile(format=1, rows=table.rows, columns=tuple(columns))


def subject_of(
    folder: Path,
    scorer: object,
    profile: Profile | None = None,
    name: str = "loans@2",
    seen: int | None = None,
) -> Subject:
    """seen: the held-out rows that `register` found in the training data; None: it did not look."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if profile is not None:
        path = folder / PROFILE
        path.parent.mkdir(parents=True, exist_ok=True)
        data = msgspec.json.encode(profile)
        path.write_bytes(data)
        files.append(FileEntry(path=PROFILE, size=len(data), sha256=digest_of(data)))
    manifest = Manifest(
        format=1,
        task="binary",
        label="risk",
        labels=("bad", "good"),
        positive="bad",
        threshold=0.5,
        contract=CONTRACT,
        native=NativeForm(family="python", serialization="source", file="model/native/f.py"),
        onnx=None,
        parity=None,
        lineage=Lineage(
            metrics={} if seen is None else {SEEN_METRIC: float(seen)},
            data=(
                DataSource(
                    role="train", name="t", digest=table_digest(rows_of(1, 2000)), rows=2000
                ),
            ),
        ),
        reads=("credit_amount", "duration"),
        files=(*files, FileEntry(path="model/native/f.py", size=1000, sha256="")),
    )
    return Subject(name, folder, manifest, "native", scorer)  # type: ignore[arg-type]
