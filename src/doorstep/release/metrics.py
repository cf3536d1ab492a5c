"""What a release may compare, and how each is said, counted and held against the champion's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

Compared = Literal["ratio", "part", "difference"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """compared: tolerance and margin are ratios to the champion's, a part of it by which the
    challenger's may be worse (0.05), or a difference. said, counted: as people read it. read: nodes
    count it, or it is read from the journal, with outcomes or without. is_better_high: more of
    it is better. are_units: of a unit what came within a time counts, else its first request."""

    compared: Compared
    said: str
    counted: str = "requests"
    read: Literal["nodes", "outcomes", "records"] = "nodes"
    is_better_high: bool = False
    are_units: bool = False


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "errors": Metric(compared="ratio", said="errors", counted="units"),
        "latency": Metric(compared="ratio", said="slow requests"),
        "mean-latency": Metric(compared="part", said="mean latency", read="records"),
        "quality": Metric(
            compared="difference", said="quality loss", counted="outcomes", read="outcomes"
        ),
        "disagreement": Metric(compared="difference", said="answers that differ"),
        "fairness": Metric(compared="difference", said="gap between groups", read="records"),
        "conversion": Metric(
            compared="part", said="conversion", counted="units whose time is over",
            read="records", is_better_high=True, are_units=True,
        ),
        "revenue": Metric(
            compared="part", said="revenue", counted="units whose time is over",
            read="records", is_better_high=True, are_units=True,
        ),
    }
)  # fmt: skip
