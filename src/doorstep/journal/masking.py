"""What is recorded of the personal part of a row."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from doorstep.core.contract import Contract
from doorstep.core.record import column_names

if TYPE_CHECKING:
    from doorstep.journal.sealing import Sealer, Session

NAN_BYTES = struct.pack("d", math.nan)
NUMBER = struct.Struct("<d")
Texts = tuple[str | None, ...]


class Row(NamedTuple):
    """A row as it came. number: its place in the request. data: its numbers."""

    number: int
    data: bytes
    texts: Texts
    subject: str
    key: str
    unit: str


class Mask:
    """ids: the names of key, unit and subject, "" for none. sealer: None where the home has no key:
    what would be a pseudonym or sealed is then left out."""

    def __init__(
        self, service: str, contract: Contract, ids: tuple[str, str, str], sealer: Sealer | None
    ) -> None:
        key, unit, subject = ids
        hidden = contract.hidden(subject or key)
        numbers = [one for one in contract.fields if one.is_number]
        texts = [one for one in contract.fields if not one.is_number]
        self._service, self.sealer = service, sealer
        self.seals = sealer is not None and contract.seals
        self._hides_key, self._hides_unit = key in hidden, (unit or key) in hidden
        self._drop = [at for at, one in enumerate(numbers) if one.name in hidden]
        self._gone = [at for at, one in enumerate(texts) if one.name in hidden]
        self._marked = [at for at, one in enumerate(texts) if one.personal == "pseudonymise"]
        kept = {
            one.name
            for one in contract.fields
            if one.personal == "seal" or (one.personal == "no" and one.name in hidden)
        }
        named = column_names(contract)
        self._numbers = [(at, named[0][at]) for at, one in enumerate(numbers) if one.name in kept]
        self._texts = [(at, named[1][at]) for at, one in enumerate(texts) if one.name in kept]
        self.is_needed = bool(self._drop or self._gone or self._hides_key or self._hides_unit)

    def ids(self, key: str, unit: str) -> tuple[str, str]:
        """What is recorded of the two."""
        return (
            self._named(key) if self._hides_key else key,
            self._named(unit) if self._hides_unit else unit,
        )

    def key(self, key: str) -> str:
        """What is recorded of the key that an outcome is about."""
        return self._named(key) if self._hides_key else key

    def _named(self, text: str) -> str:
        return self.sealer.pseudonym(text) if self.sealer and text else ""

    def inputs(self, data: bytes, row: Texts) -> tuple[bytes, Texts]:
        """What is kept of a row's numbers and texts."""
        kept = bytearray(data)
        for at in self._drop:
            kept[at * 8 : at * 8 + 8] = NAN_BYTES
        values = list(row)
        for at in self._gone:
            values[at] = None
        for at in self._marked:
            found = row[at]
            if found is not None and self.sealer is not None:
                values[at] = self.sealer.pseudonym(f"{self._service}\0{found}")
        return bytes(kept), tuple(values)

    def sealed(self, session: Session, request: bytes, row: Row) -> str:
        """The text in which the hidden values of a row are."""
        assert self.sealer is not None
        numbers = ((name, NUMBER.unpack_from(row.data, at * 8)[0]) for at, name in self._numbers)
        values: dict[str, Any] = {name: value for name, value in numbers if value == value}
        values |= {name: row.texts[at] for at, name in self._texts if row.texts[at] is not None}
        values |= {"key": row.key} if self._hides_key and row.key else {}
        values |= {"unit": row.unit} if self._hides_unit and row.unit else {}
        subject = row.subject or row.key or row.unit
        return self.sealer.seal(session, (self._service, request, row.number), subject, values)
