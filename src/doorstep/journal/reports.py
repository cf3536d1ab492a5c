"""Documents that go to the object store beside the journal, each once: what monitors found. They
go as the records of their service do: when they are older than `privacy.keep` since a day.

They are left in the home and go with the next upload of any of its nodes; a store that is away
keeps them waiting. Without a store nothing is left: the database has what they say.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from doorstep.core.ids import parse_name
from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal.away import FOLDER, Place, read_place
from doorstep.journal.retain import STANDS_S
from doorstep.kernel.files import write_atomic
from doorstep.kernel.store import Store

REPORTS = "reports"
DUE = "reports-due.json"
REPORTS_AT_ONCE = 64
_AT = re.compile(r"-(\d+)\.json\Z")


def leave_report(home: Path, service: str, name: str, at: Instant, data: bytes) -> None:
    """Never the same name with other data: what is in the store is not looked at again. Raises:
    OSError."""
    place = read_place(home)
    if place is not None and place.url:
        folder = home / FOLDER / REPORTS / parse_name(service)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{parse_name(name, 'report')}-{at}.json", data)


def send_reports(store: Store, home: Path, place: Place) -> None:
    """To `reports/<home's id>/<service>/` there. Raises: as Store."""
    folder = home / FOLDER / REPORTS
    for path in sorted(folder.glob("*/*.json"))[:REPORTS_AT_ONCE]:
        # Each node of this home sends: another one may have been sooner.
        with contextlib.suppress(FileNotFoundError):
            store.put_once(f"{REPORTS}/{place.id}/{path.relative_to(folder)}", path)
            path.unlink()


def drop_reports(
    store: Store, place: Place, folder: Path, keep_s: Mapping[str, float], now: Instant
) -> None:
    """Those that are too old since a day, as with records: a wrong clock alone deletes nothing.
    folder: of a node, where it is noted since when. keep_s: by service; one that is not named keeps
    them. Raises: OSError, as Store."""
    due = [
        name
        for service, kept_s in keep_s.items()
        for name in sorted(store.names(f"{REPORTS}/{place.id}/{service}"))
        if (made := _AT.search(name)) and int(made[1]) + kept_s * SECOND_US < now
    ]
    noted = _noted(folder / DUE)
    since = {name: min(noted.get(name, now), now) for name in due}
    gone = {name for name in due if since[name] + STANDS_S * SECOND_US <= now}
    store.delete(sorted(gone))
    left = {name: at for name, at in since.items() if name not in gone}
    if left != noted:
        write_atomic(folder / DUE, msgspec.json.encode(left))


def _noted(path: Path) -> dict[str, Instant]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Instant])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}
