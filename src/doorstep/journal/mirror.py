"""What other homes have put into the same store, so that questions find it here.

Of each of their nodes, `store/<place>/` gets the list, the summaries and the layouts; Parquet files
come when a question needs them (`away`). Readers see it as a node's folder without open blocks.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from doorstep.core.manifest import decode_part
from doorstep.journal.away import FOLDER, Place
from doorstep.journal.index import COMPACTED, INDEX, Entry, fold, read_entries, rewrite
from doorstep.journal.layouts import LAYOUTS
from doorstep.journal.stored import STORE_INDEX, StoredIndex
from doorstep.kernel.files import confine
from doorstep.kernel.store import Store

_PLACE = re.compile(r"[a-z0-9-]{1,200}\.[0-9a-f]{12}\Z")


class Mirror:
    """Keeps the folders of other homes' nodes as their lists in the store are."""

    def __init__(self, home: Path, place: Place) -> None:
        self._folder, self._place = home / FOLDER, place
        self._etags: dict[str, str] = {}

    def run_once(self, store: Store) -> None:
        """Raises: as Store; InputError for a list that cannot be read; OSError."""
        found = store.folders("journal")
        places = [one for one in found if _PLACE.match(one) and not one.endswith(self._place.id)]
        for name in places:
            listed = store.get(f"journal/{name}/{STORE_INDEX}", self._etags.get(name, ""))
            if listed is not None:
                self._follow(store, name, decode_part(listed.data, StoredIndex, "store-index"))
                self._etags[name] = listed.etag
        for path in self._folder.glob(f"*/{INDEX}"):
            if path.parent.name not in places:
                shutil.rmtree(path.parent)

    def _follow(self, store: Store, name: str, index: StoredIndex) -> None:
        """The summaries first, then the list that names them. Those that only the list before named
        stay until the next one: a reader may have it."""
        folder = self._folder / name
        before = fold(read_entries(folder)).files
        now = {one.path: one for one in index.files}
        for one in index.files:
            confine(folder, one.path)
        layouts = {f"{LAYOUTS}/{one.layout}.json" for one in index.files if one.layout}
        for wanted in sorted({one.summary for one in index.files} | layouts):
            target = confine(folder, wanted)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                # Each node of this home has a compactor that follows: no two write one file.
                temporary = target.with_name(f".{target.name}.{os.getpid()}")
                try:
                    store.fetch(f"journal/{name}/{wanted}", temporary)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
        if before != now or not (folder / INDEX).exists():
            folder.mkdir(parents=True, exist_ok=True)
            rewrite(folder, [Entry(at=index.at, files=index.files)])
        known = {one.summary for one in (*before.values(), *index.files)}
        for path in folder.glob(f"{COMPACTED}/*.json"):
            if f"{COMPACTED}/{path.name}" not in known:
                path.unlink()
