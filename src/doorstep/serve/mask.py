"""Which part of a row's inputs the journal keeps."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from doorstep.core.contract import Field
from doorstep.core.ids import hash_unit
from doorstep.core.plan import ServicePlan

NAN_BYTES = struct.pack("d", math.nan)
Texts = tuple[str | None, ...]
Mask = Callable[[bytes, Texts], tuple[bytes, Texts]]
"""From a row's numbers and texts to what is kept of them."""


def mask_of(
    plan: ServicePlan, numbers: Sequence[Field], texts: Sequence[Field]
) -> Callable[[str], Mask | None] | None:
    """For a request id, what is left out of its records; None if nothing ever is.

    numbers, texts: the fields of a record's columns, in order. Under `no-inputs`, and for the rest
    of a `sample`, no input is kept. Personal numbers are dropped, personal texts dropped or kept
    as a hash under the service's name.
    """
    personal = _personal_mask(plan.service, numbers, texts)
    width, count = len(numbers), len(texts)

    def nothing(_numbers: bytes, _texts: Texts) -> tuple[bytes, Texts]:
        return NAN_BYTES * width, (None,) * count

    if plan.record == "full":
        return None if personal is None else lambda _request: personal
    if plan.record == "no-inputs":
        return lambda _request: nothing
    limit = plan.record_share * 2.0**64
    return lambda request: personal if hash_unit("record", request) < limit else nothing


def _personal_mask(service: str, numbers: Sequence[Field], texts: Sequence[Field]) -> Mask | None:
    drop = [at for at, one in enumerate(numbers) if one.personal != "no"]
    marked = [(at, one.personal) for at, one in enumerate(texts) if one.personal != "no"]
    if not drop and not marked:
        return None

    def mask(data: bytes, row: Texts) -> tuple[bytes, Texts]:
        kept = bytearray(data)
        for at in drop:
            kept[at * 8 : at * 8 + 8] = NAN_BYTES
        values = list(row)
        for at, how in marked:
            found = values[at]
            gone = how == "drop" or found is None
            values[at] = None if gone else f"{hash_unit(service, str(found)):016x}"
        return bytes(kept), tuple(values)

    return mask
