"""A service with mixed columns, its reference, and windows of traffic that drifted or did not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from doorstep.core.instant import SECOND_US
from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.monitor.types import DriftWindow, ServiceFacts
from doorstep.stats.codes import MISSING, code_numbers, code_texts, count_codes, quantile_edges
from doorstep.stats.distances import ColumnCounts

HOUR = 3600 * SECOND_US
T0 = 1_800_000_000 * SECOND_US // HOUR * HOUR
Columns = dict[str, np.ndarray]
PURPOSES = ("car", "furniture", "education", "repairs", "business")
SHARES = (0.4, 0.3, 0.15, 0.1, 0.05)


def rows_of(generator: np.random.Generator, rows: int) -> Columns:
    """Eight numeric columns of different shapes, one with 2 % missing, and two categories."""
    found: Columns = {
        "income": generator.normal(3000, 800, rows),
        "amount": np.exp(generator.normal(7.7, 0.6, rows)),
        "age": generator.integers(18, 75, rows).astype(float),
        "children": generator.poisson(1.1, rows).astype(float),
        "rate": generator.uniform(0, 1, rows),
        "tail": generator.standard_t(3, rows),
        "balance": np.where(generator.random(rows) < 0.5, 0, generator.normal(5, 1, rows)),
        "tenure": generator.chisquare(4, rows),
    }
    found["income"][generator.random(rows) < 0.02] = np.nan
    found["purpose"] = generator.choice(PURPOSES, rows, p=SHARES).astype(object)
    found["region"] = generator.choice([f"r{i:02d}" for i in range(50)], rows).astype(object)
    return found


def reference_of(columns: Columns) -> Profile:
    return Profile(
        format=1,
        rows=len(columns["income"]),
        columns=tuple(_profile(name, values) for name, values in columns.items()),
    )


def _profile(name: str, values: np.ndarray) -> ColumnProfile:
    if values.dtype == object:
        names, counts = np.unique(values.astype(str), return_counts=True)
        ordered = tuple(names[np.argsort(-counts, kind="stable")].tolist())
        bare = ColumnProfile(
            name=name, type="category", categories=ordered[:30], known=ordered, counts=(), nulls=0
        )
        codes = code_texts(values.tolist(), bare)
        return ColumnProfile(
            name=name,
            type="category",
            categories=ordered[:30],
            known=ordered,
            counts=tuple(count_codes(codes).tolist()),
            nulls=int((codes == MISSING).sum()),
        )
    edges = quantile_edges(values)
    return ColumnProfile(
        name=name,
        type="float",
        edges=tuple(edges.tolist()),
        counts=tuple(count_codes(code_numbers(values, edges)).tolist()),
        nulls=int(np.isnan(values).sum()),
    )


def counts_of(reference: Profile, columns: Columns) -> dict[str, ColumnCounts]:
    found = {}
    for one in reference.columns:
        values = columns[one.name]
        is_text = one.type == "category"
        codes = code_texts(values.tolist(), one) if is_text else code_numbers(values, one.edges)
        found[f"in.{one.name}"] = ColumnCounts(
            tuple(count_codes(codes).tolist()), int((codes == MISSING).sum())
        )
    return found


def window_of(reference: Profile, columns: Columns, hour: int = 0, warned: int = 0) -> DriftWindow:
    return DriftWindow(
        since=T0 + hour * HOUR,
        until=T0 + (hour + 1) * HOUR,
        rows=len(columns["income"]),
        columns=counts_of(reference, columns),
        warned=warned,
    )


def facts_of(reference: Profile, window: DriftWindow | None, **changes: object) -> ServiceFacts:
    return ServiceFacts(
        service="loans",
        version=2,
        reference=reference,
        drift=window,
        **changes,  # type: ignore[arg-type]
    )


def _scale_spread(values: np.ndarray, factor: float) -> np.ndarray:
    middle = np.nanmean(values)
    return middle + (values - middle) * factor


DRIFTS: Mapping[str, tuple[str, Callable[[Columns, np.random.Generator], None]]] = {
    "mean by 0.1 sd": ("income", lambda c, g: c.update(income=c["income"] + 80)),
    "mean by 0.25 sd": ("tenure", lambda c, g: c.update(tenure=c["tenure"] + 0.7)),
    "mean by 0.5 sd": ("rate", lambda c, g: c.update(rate=c["rate"] + 0.145)),
    "spread by 1.25": ("income", lambda c, g: c.update(income=_scale_spread(c["income"], 1.25))),
    "a category by 5 points": ("purpose", lambda c, g: _recategorise(c, g)),
    "missing from 2 to 6 %": ("income", lambda c, g: _lose(c, g)),
    "a value never seen": ("purpose", lambda c, g: _invent(c, g)),
    "gradual": ("amount", lambda c, g: _grow(c)),
}


def _recategorise(columns: Columns, generator: np.random.Generator) -> None:
    moved = (columns["purpose"] == "furniture") & (
        generator.random(len(columns["purpose"])) < 1 / 6
    )
    columns["purpose"][moved] = "education"


def _lose(columns: Columns, generator: np.random.Generator) -> None:
    columns["income"][generator.random(len(columns["income"])) < 0.041] = np.nan


def _invent(columns: Columns, generator: np.random.Generator) -> None:
    columns["purpose"][generator.random(len(columns["purpose"])) < 0.02] = "vacation"


def _grow(columns: Columns) -> None:
    columns["amount"] = columns["amount"] * np.linspace(1.0, 1.5, len(columns["amount"]))
