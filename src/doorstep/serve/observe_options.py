"""Whether somebody looks on when requests end, as a node is told at its start."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.errors import UsageError
from doorstep.core.yamltext import Scalar

SAMPLE = 0.01


class ObserveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """access_log: a file, "" for none. otlp: where traces go, "" for nowhere. *_share: of the
    requests."""

    access_log: str = ""
    access_share: float = SAMPLE
    otlp: str = ""
    trace_share: float = SAMPLE

    @property
    def words(self) -> list[str]:
        """As options of a node."""
        from doorstep.core.filewords import show_share

        found: list[str] = []
        if self.access_log:
            found += [
                "--access-log",
                self.access_log,
                "--access-sample",
                show_share(self.access_share),
            ]
        if self.otlp:
            found += ["--otlp", self.otlp, "--trace-sample", show_share(self.trace_share)]
        return found


def observe_options(
    access_log: str, access_sample: str, otlp: str = "", trace_sample: str = "1%"
) -> ObserveOptions:
    """What options say. Raises: UsageError (`bad-sample`)."""
    return ObserveOptions(
        access_log=str(Path(access_log).absolute()) if access_log else "",
        access_share=sample_of(access_sample, "--access-sample"),
        otlp=otlp,
        trace_share=sample_of(trace_sample, "--trace-sample"),
    )


def sample_of(text: str, option: str) -> float:
    """`1%` -> 0.01. Raises: UsageError (`bad-sample`)."""
    from doorstep.core.filewords import parse_share

    try:
        share = parse_share(Scalar(text, False, 1, 1))
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError("bad-sample", f"{option} is {text!r}; expected more than 0% to 100%")
    return share
