"""A version under test: its bundle read, its model loaded in the form that will serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.manifest import Manifest, Profile, decode_part
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.columns import Table
from doorstep.formats.load import load_scorer, member_path, open_bundle, read_member
from doorstep.formats.table import read_table
from doorstep.gate.types import Candidate
from doorstep.register.decide import form_of

PROFILE = "reference/profile.json"
BACKGROUND = "reference/background.parquet"
CHUNK_ROWS = 4096
Form = Literal["onnx", "native"]


@dataclass(frozen=True)
class Subject:
    """name: `loans@3`. form: the one that will serve, ONNX where the bundle has it."""

    name: str
    folder: Path
    manifest: Manifest
    form: Form
    scorer: Scorer

    def read_profile(self) -> Profile | None:
        """The reference of the training data; None if the bundle has none."""
        if not self._has(PROFILE):
            return None
        return decode_part(read_member(self.folder, self.manifest, PROFILE), Profile, "profile")

    def read_background(self) -> Table | None:
        """The sample of reference rows; None if the bundle has none."""
        if not self._has(BACKGROUND):
            return None
        read_member(self.folder, self.manifest, BACKGROUND)
        return read_table(member_path(self.folder, BACKGROUND))

    def _has(self, path: str) -> bool:
        return any(one.path == path for one in self.manifest.files)


class ScoringFault(Exception):
    """The version raised on these rows. row: the first that it raises on, alone or in company."""

    def __init__(self, row: int, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {str(error)[:200]}")
        self.row = row


def load_subject(asked: Candidate) -> Subject:
    """Raises: InputError (`bad-manifest`, ...), RefusedError (`untrusted-model`)."""
    folder = Path(asked.folder)
    manifest = open_bundle(folder, asked.digest)
    form = form_of(manifest)
    scorer = load_scorer(folder, manifest, form, trusted=asked.trusted)
    return Subject(asked.name, folder, manifest, form, scorer)


def score_rows(scorer: Scorer, batch: Batch) -> NDArray[np.float64]:
    """Scores of all rows, in calls of at most CHUNK_ROWS. Raises: ScoringFault."""
    parts = []
    for number, part in enumerate(batch.parts(CHUNK_ROWS)):
        try:
            found = scorer.score(part)
        # Model code: whatever it raises is what the gate reports.
        except Exception as error:
            row = number * CHUNK_ROWS + _first_fault(scorer, part)
            raise ScoringFault(row, error) from error
        parts.append(np.asarray(found, dtype=np.float64).reshape(part.rows, -1))
    return np.concatenate(parts) if parts else np.empty((0, 0))


def _first_fault(scorer: Scorer, batch: Batch) -> int:
    """The smallest prefix that raises, by halving; its last row is the one to look at."""
    good, bad = 0, batch.rows
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            scorer.score(batch.part(0, middle))
            good = middle
        except Exception:  # noqa: BLE001  as above
            bad = middle
    return bad - 1


def as_served(batch: Batch, contract: Contract) -> Batch:
    """Unseen categories made missing where the contract says so, as the front worker does."""
    texts = list(batch.texts)
    for at, field in enumerate(contract.texts):
        if field.unseen == "missing" and field.values:
            known = set(field.values)
            texts[at] = [value if value in known else None for value in texts[at]]
    return Batch(batch.numbers, texts)
