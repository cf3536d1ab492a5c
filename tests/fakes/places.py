"""Second places of a journal, real ones, each with a way to it that may fail."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from doorstep.core.ids import new_id
from doorstep.journal import duck
from doorstep.journal.index import fold, read_entries
from doorstep.journal.replica import Segment, replica_of
from doorstep.journal.restore import restore
from fakes.proxy import Proxy, proxy_to

PASSWORD = "nobody-may-see-this"
"""These servers believe everybody."""


class Place:
    """A second place, and the way to it."""

    def __init__(self, url: str, way: Proxy) -> None:
        self.url, self.way = url, way

    def blocks(self) -> dict[tuple[str, str], list[Segment]]:
        with closing(replica_of(self.url)) as found:
            return {one: found.read(*one) for one in found.blocks().blocks}

    def bring_back(self, home: Path) -> tuple[int, int]:
        """Restore; how many blocks and predictions came."""
        with closing(replica_of(self.url)) as found:
            told = list(restore(home, found))
        assert not any(one.unreadable for one in told)
        return sum(one.blocks for one in told), sum(one.predictions for one in told)


@contextlib.contextmanager
def place_in_nats(port: int) -> Iterator[Place]:
    """A stream of its own."""
    with proxy_to(("127.0.0.1", port)) as way:
        yield Place(f"nats://who:{PASSWORD}@127.0.0.1:{way.port}/test-{new_id().hex}", way)


@contextlib.contextmanager
def place_in_postgres(url: str) -> Iterator[Place]:
    """url: of an empty database on a Unix socket."""
    owner, _, rest = url.partition("@/")
    name, _, folder = rest.partition("?host=")
    with proxy_to(f"{folder}/.s.PGSQL.5432") as way:
        yield Place(f"{owner}:{PASSWORD}@127.0.0.1:{way.port}/{name}?sslmode=disable", way)


def listed_ids(home: Path, node: str) -> Counter[str]:
    """Predictions in the compacted files of a node, as often as they are there."""
    folder = home / "journal" / node
    listed = fold(read_entries(folder)).files.values()
    files = [folder / one.path for one in listed if one.holds == "predictions"]
    con = duck.connect(folder / ".test")
    found = con.execute(f"SELECT id FROM {duck.parquet_of(files)}").fetchall()
    con.close()
    shutil.rmtree(folder / ".test")
    return Counter(str(one) for (one,) in found)
