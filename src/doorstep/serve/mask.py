"""Whether the journal keeps the inputs of a request."""

from __future__ import annotations

from collections.abc import Callable

from doorstep.core.ids import hash_unit
from doorstep.core.plan import ServicePlan

Keeps = Callable[[str], bool]


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
