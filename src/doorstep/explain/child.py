"""Explanations, computed in a process of their own: model code never runs in the control plane.

`kernel.child.run_child("doorstep.explain.child", encode(request))` answers with an `Explained`.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.instant import parse_instant
from doorstep.core.manifest import Manifest
from doorstep.explain.permutation import PAIRS, Explanation, ScoreColumn, explain_row
from doorstep.explain.words import REASONS, in_words
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.load import load_scorer, member_path, open_bundle, read_member
from doorstep.formats.table import read_table, to_batch
from doorstep.register.decide import form_of

BACKGROUND = "reference/background.parquet"
Value = float | str | bool | None


class ExplainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """folder: of the bundle, with manifest.json of this digest. row: the input fields as the
    journal has them (a time as microseconds or ISO text); what is absent is missing. trusted: from
    the trust store, never from the bundle. label: whose score is explained; "" is the positive
    label, of several labels the one that is answered. pairs: of permutations, where the columns are
    too many for an exact answer. reasons: how many sentences."""

    folder: str
    digest: str
    row: dict[str, Value]
    trusted: bool = False
    label: str = ""
    seed: int = 0
    pairs: int = PAIRS
    reasons: int = REASONS

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= 1000 or not 0 <= self.reasons <= 100:
            raise ValueError("expected 1 to 1,000 pairs and 0 to 100 reasons")


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """of: the label that the score is of; "" for a regression. words: the largest contributions
    as sentences. form: which model file was asked."""

    of: str
    form: str
    explanation: Explanation
    words: tuple[str, ...]


def main(request: bytes) -> bytes:
    """ExplainRequest as JSON in, Explained as JSON out.

    Raises: InputError (`bad-explain-request`, `bad-row`, `no-background`, `bad-manifest`, ...),
    RefusedError (`untrusted-model`, `too-wide`, `bad-score`, `not-additive`).
    """
    try:
        asked = msgspec.json.decode(request, type=ExplainRequest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError("bad-explain-request", f"the request cannot be read: {error}") from None
    return msgspec.json.encode(explain(asked))


def explain(asked: ExplainRequest) -> Explained:
    """Load the version in the form that serves, and explain one row against its background."""
    folder = Path(asked.folder)
    manifest = open_bundle(folder, asked.digest)
    form = form_of(manifest)
    scorer = load_scorer(folder, manifest, form, trusted=asked.trusted)
    row = row_batch(asked.row, manifest.contract)
    label = asked.label or _explained_label(manifest, scorer, row)
    explanation = explain_row(
        score_of(scorer, manifest, label),
        manifest.contract,
        row,
        read_background(folder, manifest),
        seed=asked.seed,
        pairs=asked.pairs,
    )
    words = in_words(explanation, manifest.contract, label, asked.reasons)
    return Explained(of=label, form=form, explanation=explanation, words=words)


def score_of(scorer: Scorer, manifest: Manifest, label: str) -> ScoreColumn:
    """The scores of one label, or the value of a regression. Raises: InputError (`bad-label`)."""
    if label and label not in manifest.labels:
        known = ", ".join(manifest.labels[:10]) or "none: it is a regression"
        raise InputError("bad-label", f"the version has no label {label!r}; it has {known}")
    column = manifest.labels.index(label) if label else 0

    def score(batch: Batch) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.asarray(scorer.score(batch), dtype=np.float64)
        return found.reshape(batch.rows, -1)[:, column]

    return score


def _explained_label(manifest: Manifest, scorer: Scorer, row: Batch) -> str:
    if manifest.positive or not manifest.labels:
        return manifest.positive
    return manifest.labels[int(np.argmax(scorer.score(row)))]


def read_background(folder: Path, manifest: Manifest) -> Batch:
    """The bundle's sample of training rows. Raises: InputError (`no-background`)."""
    if not any(one.path == BACKGROUND for one in manifest.files):
        raise InputError(
            "no-background",
            "the version has no background sample to compare with",
            "name data.train in the service file, then: doorstep register MODEL",
        )
    read_member(folder, manifest, BACKGROUND)
    texts = [field.name for field in manifest.contract.texts]
    table = read_table(member_path(folder, BACKGROUND), texts=texts)
    return to_batch(table, manifest.contract)


def row_batch(row: dict[str, Value], contract: Contract) -> Batch:
    """One row as a batch; an absent field is missing. Raises: InputError (`bad-row`)."""
    names = {field.name for field in contract.inputs}
    strange = sorted(set(row) - names)
    if strange:
        raise InputError("bad-row", f"the version does not read {', '.join(strange[:5])}")
    numbers = [[_as_number(row.get(field.name), field) for field in contract.numbers]]
    texts: list[list[str | None]] = [[_as_text(row.get(f.name), f)] for f in contract.texts]
    return Batch(np.array(numbers, dtype=np.float64).reshape(1, len(contract.numbers)), texts)


def _as_number(value: Value, field: Field) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        if field.type == "time":
            return float(parse_instant(value))
        raise InputError("bad-row", f"{field.name} is text, expected {field.type}")
    return float(value)


def _as_text(value: Value, field: Field) -> str | None:
    """As the version saw it: an unseen category is missing where the contract says so."""
    if isinstance(value, str) and field.unseen == "missing" and field.values:
        return value if value in field.values else None
    if value is None or isinstance(value, str):
        return value
    raise InputError("bad-row", f"{field.name} is {value!r}, expected text")
