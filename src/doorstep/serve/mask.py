"""Which part of its inputs the journal keeps."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from doorstep.core.contract import Field
from doorstep.core.ids import hash_unit
from doorstep.core.plan import ServicePlan

NAN_BYTES = struct.pack("d", math.nan)
Texts = tuple[str | None, ...]
Keeps = Callable[[str], bool]
Mask = Callable[[bytes, Texts], tuple[bytes, Texts]]
"""From a row's numbers and texts to what is kept of them."""


def keep_nothing(_request: str) -> bool:
    return False


def keeps_of(plan: ServicePlan) -> Keeps | None:
    """Whether the inputs of a request are kept, by its id, so that everybody who asks is told the
    same; None if they always are. The records of the others have no columns of inputs."""
    if plan.record == "full":
        return None
    if plan.record == "no-inputs":
        return keep_nothing
    limit = plan.record_share * 2.0**64
    return lambda request: hash_unit("record", request) < limit


def mask_of(service: str, numbers: Sequence[Field], texts: Sequence[Field]) -> Mask | None:
    """What is left out of inputs that are kept: personal numbers are dropped, personal texts
    dropped or kept as a hash under the service's name. None if there are none. numbers, texts: the
    fields of a record's columns, in order."""
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
