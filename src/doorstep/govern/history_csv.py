"""The history of a service as a table for spreadsheets."""

from __future__ import annotations

import csv
import io

from doorstep.core.instant import to_text
from doorstep.govern.surface import History

COLUMNS = (
    *("service", "version", "role", "share", "from", "until", "release", "asked_by"),
    *("approved_by", "decided_by", "because", "evidence", "goal"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula, and reasons are written by people."""


def to_csv(shown: History) -> str:
    """What served when, as a table that any spreadsheet opens and none runs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in shown.served:
        until = to_text(one.until) if one.until is not None else ""
        cells = (
            *(shown.service, f"{shown.service}@{one.version}", one.role, f"{one.share:g}"),
            *(to_text(one.since), until, one.release, one.asked_by),
            *(", ".join(one.approved_by), one.decided_by, one.because, one.evidence, one.goal),
        )
        writer.writerow([harmless(cell) for cell in cells])
    return text.getvalue()


def harmless(cell: str) -> str:
    """`=1+1` -> `'=1+1`: text for a spreadsheet, whoever wrote it."""
    flat = cell.replace("\r", " ").replace("\n", " ")
    return f"'{flat}" if flat.startswith(FORMULA) else flat
