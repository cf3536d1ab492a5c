"""Held-out rows: taken from one file by a rule anybody can repeat, and told apart from training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError
from doorstep.formats.columns import Table, row_hashes

HOLDOUT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Split:
    """train and holdout have no row in common, nor equal rows. rule: how they were told apart."""

    train: Table
    holdout: Table
    rule: str


def split_table(table: Table, time: str = "") -> Split:
    """A fifth of the rows held out: the latest by the column `time`, or, without one, those whose
    content hashes below 0.2, so that equal rows stay together and any order gives the same split.

    Raises: InputError (`too-few-rows`) if one side would be empty.
    """
    held = _latest(table, time) if time else _hashed(table)
    if not held.any() or held.all():
        raise InputError(
            "too-few-rows",
            f"{table.rows} rows cannot be split into training and held-out rows",
            "give a hold-out file of its own: --holdout FILE",
        )
    count = int(held.sum())
    rule = f"the latest by {time}" if time else "by a hash of each row"
    said = f"{count:,} of {table.rows:,} rows ({count / table.rows:.0%}) held out, {rule}"
    return Split(table.take(~held), table.take(held), said)


def time_column(table: Table) -> str:
    """The only column of times without missing values, or ""."""
    found = [one.name for one in table.columns if one.kind == "time" and not one.missing.any()]
    return found[0] if len(found) == 1 else ""


def _latest(table: Table, time: str) -> NDArray[np.bool_]:
    moments = table.column(time).as_numbers()
    if np.isnan(moments).any():
        raise InputError("bad-column", f"column {time!r} has missing times; it cannot order rows")
    cut = np.sort(moments)[int(np.ceil(table.rows * (1 - HOLDOUT_SHARE))) - 1]
    held: NDArray[np.bool_] = moments > cut
    return held if held.any() else moments >= cut


def _hashed(table: Table) -> NDArray[np.bool_]:
    held: NDArray[np.bool_] = row_hashes(table) < np.uint64(int(HOLDOUT_SHARE * 2**64))
    return held


def overlap(train: Table, holdout: Table) -> int:
    """How many rows of `holdout` are also in `train`, by content over the columns both have. 0 if
    they share no column."""
    shared = [name for name in holdout.names if name in train]
    if not shared:
        return 0
    return int(np.isin(row_hashes(holdout, shared), row_hashes(train, shared)).sum())


def sample_rows(table: Table, count: int) -> NDArray[np.int64]:
    """Indices, ascending, of at most `count` rows: those with the smallest content hash, so that
    the same rows are taken whatever their order. Repeats of a row are drawn on their own."""
    if table.rows <= count:
        return np.arange(table.rows)
    hashes = row_hashes(table)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(table.rows), 0))
    repeat = (np.arange(table.rows) - start).astype(np.uint64)
    mixed = ordered ^ (repeat * np.uint64(0x9E3779B97F4A7C15))
    chosen = order[np.argsort(mixed, kind="stable")[:count]]
    return np.sort(chosen)
