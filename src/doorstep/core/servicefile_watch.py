"""What a service file says about answers that somebody else gives: Doorstep only watches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from doorstep.core.contract import FIELDS_MAX
from doorstep.core.filereaders import MapOf
from doorstep.core.filewords import count
from doorstep.core.servicefile_types import COLUMN

REFERENCE_ROWS_MAX = 100_000


class WatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which column of what is imported is what. The key's column is `ids.key`."""

    prediction: Annotated[
        str, COLUMN, "column of the answer: a label, or the predicted number", "prediction"
    ] = "prediction"
    score: Annotated[
        str | None,
        COLUMN,
        "column of the chance, 0 to 1, of model.positive",
        "none: an answer counts as certain",
    ] = None
    scores: Annotated[
        dict[str, str],
        MapOf(COLUMN, "label", 1000),
        "column of the chance of each label, where there are more than two",
        "none: an answer counts as certain",
    ] = {}
    time: Annotated[
        str, COLUMN, "column of when it was answered: ISO 8601, or seconds since 1970", "time"
    ] = "time"
    version: Annotated[
        str | None,
        COLUMN,
        "column of the version that answered, by any name",
        "none: all are of one",
    ] = None
    outcome: Annotated[
        str | None, COLUMN, "column of what became true, where it is known already", "model.label"
    ] = None
    latency_ms: Annotated[str | None, COLUMN, "column of how long it took", "none: not known"] = (
        None
    )
    columns: Annotated[
        dict[str, str],
        MapOf(COLUMN, "field", FIELDS_MAX),
        "column of a field of the contract, where it has another name",
        "none: they have the names of the fields",
    ] = {}
    reference_rows: Annotated[
        int,
        count(100, REFERENCE_ROWS_MAX),
        "how many first rows the later ones are compared with, where no reference is given",
        "1000: enough to see a shift of a quarter of a standard deviation",
    ] = 1000

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.score and self.scores:
            yield "scores", "says what score says; expected one of the two"
