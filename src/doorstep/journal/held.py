"""Whom a legal hold keeps, for compactors: `<home>/journal/held`, a pseudonym a line. Files with
predictions of theirs stay, and so do outcomes of these services, whatever their age."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from doorstep.core.errors import DoorstepError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import SEALED
from doorstep.journal import duck
from doorstep.journal.away import borrowed
from doorstep.journal.index import ListedFile
from doorstep.journal.layouts import read_layout
from doorstep.journal.retain import AHEAD_S, AHEAD_SHARE, Bounds, plan_drops
from doorstep.journal.rows import types_of
from doorstep.journal.troubles import Trouble, of_error
from doorstep.kernel.files import write_atomic

NAME = "held"


def read_held(journal: Path) -> frozenset[str]:
    try:
        return frozenset((journal / NAME).read_text().split())
    except FileNotFoundError:
        return frozenset()


def knows_held(journal: Path) -> bool:
    """Whether the control plane has said who is held since this journal began, or came back."""
    return (journal / NAME).exists()


def write_held(journal: Path, names: Collection[str]) -> None:
    journal.mkdir(exist_ok=True)
    write_atomic(journal / NAME, "".join(f"{one}\n" for one in sorted(names)).encode())


class HeldFiles:
    """Of a node's folder. What a file has never changes: each is read once, when it is to go.
    unread: files that could not be, at the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: frozenset[str] = frozenset()
        self._known: dict[str, bool] = {}
        self.unread: list[Trouble] = []

    def without(
        self, files: Iterable[ListedFile], bounds: Bounds, now: Instant
    ) -> list[ListedFile]:
        """Files that may go. Raises: OSError; then nothing should."""
        files, held = list(files), read_held(self._folder.parent)
        self.unread = []
        if held != self._held:
            self._held, self._known = held, {}
        if not held:
            return files
        ahead = Bounds(bounds.keep_s, bounds.bytes_max * AHEAD_SHARE)
        soon = [one.file for one in plan_drops(files, ahead, now + AHEAD_S * SECOND_US)]
        theirs = [one for one in soon if one.holds == "predictions" and self._is_theirs(one)]
        services = {one.service for one in theirs}
        stay = {one.path for one in theirs}
        stay |= {one.path for one in soon if one.holds == "outcomes" and one.service in services}
        return [one for one in files if one.path not in stay]

    def _is_theirs(self, one: ListedFile) -> bool:
        import duckdb

        if one.path not in self._known:
            layout = read_layout(self._folder, one.layout)
            seals = layout is None or layout.seals
            try:
                self._known[one.path] = seals and self._has(one)
            except (DoorstepError, duckdb.Error) as error:
                # Who is in it cannot be seen now: it stays, and stops no other.
                said = "stays, because it cannot be seen whether a legal hold keeps it"
                self.unread.append(of_error(error, one.path, said, one.service))
                return True
        return self._known[one.path]

    def _has(self, one: ListedFile) -> bool:
        home = self._folder.parent.parent
        with (
            tempfile.TemporaryDirectory(dir=home, prefix=".spill-") as temp,
            borrowed(home, self._folder, one, Path(temp)) as path,
            contextlib.closing(duck.connect(Path(temp) / "spill")) as con,
        ):
            if SEALED not in types_of(con, [path]):
                return False
            asked = (
                f"SELECT count(*) FROM {duck.parquet_of([path])} "  # noqa: S608
                f"WHERE split_part({SEALED}, '.', 1) IN (SELECT unnest(?))"
            )
            found = con.execute(asked, [list(self._held)]).fetchone()
        return found is not None and found[0] > 0
