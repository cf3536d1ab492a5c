"""What nodes report, and which of them are alive: judged by a rising number, not by a clock."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.instant import Clock
from doorstep.core.report import FORMAT, NodeReport

REPORT_BYTES_MAX = 64 * 1024 * 1024
NODES_MAX = 10_000
PAST = "past"
"""The folder of last reports of boots that are gone, until their evidence was kept."""
ALIVE_S = 6.0
"""A node writes at least every two seconds; three missed reports are silence."""


class Sight(msgspec.Struct, frozen=True):
    """report: the newest. rose_s: when its sequence last rose, on our monotonic clock."""

    report: NodeReport
    rose_s: float


class NodeWatch:
    """Reads `nodes/*.json` and remembers when each number last rose. For several threads."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._seen: dict[str, Sight] = {}

    def look(self) -> None:
        """Read every report once. One that cannot be read is as good as none."""
        now_s = self._clock.monotonic_s()
        for path in sorted(self._folder.glob("*.json"))[:NODES_MAX]:
            report = read_report(path)
            if report is None:
                continue
            before = self._seen.get(report.node)
            if before is None:
                # A file that we meet for the first time may be an old one: only a rise counts.
                self._seen[report.node] = Sight(report, -ALIVE_S)
            elif (report.boot, report.sequence) != (before.report.boot, before.report.sequence):
                self._seen[report.node] = Sight(report, now_s)

    def reports(self) -> list[NodeReport]:
        """The newest report of every node ever seen, alive or not."""
        return [sight.report for sight in list(self._seen.values())]

    def alive(self) -> list[NodeReport]:
        now_s = self._clock.monotonic_s()
        return [one.report for one in list(self._seen.values()) if now_s - one.rose_s <= ALIVE_S]

    def silent(self) -> list[str]:
        """Nodes that were seen and have stopped reporting."""
        now_s = self._clock.monotonic_s()
        return [name for name, one in list(self._seen.items()) if now_s - one.rose_s > ALIVE_S]


def past_reports(nodes: Path) -> list[tuple[Path, NodeReport]]:
    """Last reports of boots that are gone, with the files to remove once they were kept. What
    cannot be read is left where it is."""
    found = []
    for path in sorted((nodes / PAST).glob("*.json"))[:NODES_MAX]:
        report = read_report(path)
        if report is not None:
            found.append((path, report))
    return found


def read_report(path: Path) -> NodeReport | None:
    """The report in a file, or None if there is none that this release can read."""
    try:
        data = path.read_bytes()
        if len(data) > REPORT_BYTES_MAX:
            return None
        report = msgspec.json.decode(data, type=NodeReport)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return report if report.format == FORMAT else None
