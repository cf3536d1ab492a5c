"""A query that is read from where the last run stopped, by a column that only grows.

The rows of the last watermark are asked for again, because others may have come with the same one;
those that were read are known by their digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorstep.cli.sources import After, Read, rows_of_query
from doorstep.client import Client
from doorstep.core.errors import NotFoundError
from doorstep.core.ids import digest_of
from doorstep.journal.surface import Mark


class MarkedQuery:
    """column: "" reads everything each time. `rows` goes on from the mark that is kept; `keep`
    keeps it behind every row that was given so far."""

    def __init__(self, client: Client, service: str, url: str, sql: str, column: str) -> None:
        self._client, self._service, self._column = client, service, column
        self._url, self._sql = url, sql
        place = urlsplit(url)
        path = place.path
        if place.scheme == "sqlite":
            # Another folder has another file of this name, and another name for this file.
            path = f"/{Path(path.removeprefix('/')).resolve()}"
        where = [place.scheme, place.hostname, place.port, path, place.query]
        self._source = digest_of(msgspec.json.encode([where, sql, column]))
        self._mark = Mark()

    def rows(self) -> Iterator[Read]:
        if not self._column:
            yield from rows_of_query(self._url, self._sql)
            return
        self._mark = start = self._start()
        seen = set(start.seen)
        for row, fault in rows_of_query(self._url, self._sql, After(self._column, start.value)):
            if self._column not in row:
                # SQLite takes an unknown name in quotes for a text, and the same in capitals.
                said = f"the query has no column {self._column}; it has {', '.join(row)}"
                raise NotFoundError("no-column", said[:500], "name it with --watermark, as it is")
            value = _plain(row[self._column])
            name = digest_of(msgspec.json.encode(row, enc_hook=str))
            if value is None:
                yield row, f"no value in column {self._column}"
                continue
            if value == start.value and name in seen:
                continue
            same = self._mark.seen if value == self._mark.value else ()
            self._mark = Mark(value=value, seen=(*same, name))
            yield row, fault

    def _start(self) -> Mark:
        try:
            return self._client.mark(self._service, self._source)
        except NotFoundError:  # a service that the import makes
            return Mark()

    def keep(self) -> None:
        if self._column and self._mark.value is not None:
            self._client.keep_mark(self._service, self._source, self._mark)


def _plain(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else str(value)
