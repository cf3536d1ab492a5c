"""Outcomes of a file or of a query: which can be recorded, and which are kept beside, and why."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from doorstep.cli.refusals import Refusals
from doorstep.cli.sources import Read
from doorstep.client import Client
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import digest_of
from doorstep.core.outcome import OutcomeGiven, require_storable
from doorstep.core.servicefile import stored_service_file
from doorstep.formats.columns import value_text
from doorstep.formats.fromrows import is_missing
from doorstep.journal.imports import instant_of, label_of, number_of
from doorstep.register.surface import Service

AT, VALUE = "at", "value"
OUTCOMES_A_CALL = 1000
PEEKED_ROWS = 100
"""Rows whose columns are looked at before the first is sent; fewer than a call takes."""
REMEMBERED_MAX = 100_000
"""Of so many outcomes in a row, two that contradict each other are found."""
Opened = Callable[[], Iterator[Read]]
Said = tuple[str, str | int, str | int | None]
"""Of which case, and when."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns mean what. label: "" is the service's label. key: "" is `prediction`, else
    `ids.key`. at: "" is `at` where there is one, else now. value: "" is `value` where there is one
    and cases have a value."""

    label: str = ""
    key: str = ""
    at: str = ""
    value: str = ""


@dataclass(slots=True)
class Sent:
    """repeated: were there already. unknown: rows without an outcome. reason: of the first that was
    refused; reasons: how often each. kept: the file of the refused rows."""

    recorded: int = 0
    repeated: int = 0
    refused: int = 0
    unknown: int = 0
    kept: str = ""
    reason: str = ""
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def is_all_refused(self) -> bool:
        return bool(self.refused) and not (self.recorded or self.repeated or self.unknown)


class Reader:
    """Rows of one source as outcomes. labels: that any version of the service knows."""

    def __init__(self, columns: Columns, labels: Collection[str], *, is_number: bool) -> None:
        self._columns, self._labels, self._is_number = columns, sorted(labels), is_number

    def read(self, row: dict[str, Any]) -> OutcomeGiven | None:
        """None if the outcome is not known yet. Raises: ValueError: why this row is none."""
        columns = self._columns
        found = row.get(columns.label)
        worth = row.get(columns.value) if columns.value else None
        label = None if self._is_number or is_missing(found) else self._label(found)
        value = found if self._is_number else worth
        if label is None and is_missing(value):
            return None
        by = row.get(columns.key)
        if is_missing(by):
            raise ValueError(f"{columns.key} is empty; expected whose outcome this is")
        named = value_text(by).strip()
        is_id = columns.key == "prediction"
        at = row.get(columns.at) if columns.at else None
        given = OutcomeGiven(
            prediction=named if is_id else "",
            key="" if is_id else named,
            label=label,
            value=None if is_missing(value) else number_of(value, columns.value or columns.label),
            at=instant_of(at, columns.at) if columns.at else 0,
        )
        require_storable(given)
        return given

    def _label(self, found: Any) -> str:
        """As a version knows it, else as it is: then the server says what is known."""
        return label_of(found, self._labels) or value_text(found)


def tell(
    client: Client,
    service: str,
    opened: Opened,
    asked: Columns,
    refusals: Refusals,
    *,
    name: str,
    strict: bool = False,
    again: bool = False,
    passed: Callable[[], None] = lambda: None,
) -> Sent:
    """Send the outcomes of a source; the rows that are none go into `refusals`. name: of the
    source, for people. strict: all rows or none. again: also what was sent before. passed: is
    called when all rows that `opened` gave so far are recorded.

    Raises: InputError (`bad-outcome`) if strict, NotFoundError (`no-column`), and what reading the
    source raises.
    """
    sending = _Sending(client, client.service(service), asked, refusals, name, again)
    if strict:
        sending.send(opened(), check=True)
        if refusals.count:
            hint = f"correct it and send {name} again; none was recorded"
            raise InputError("bad-outcome", f"{name}, {refusals.first}", hint)
        sending.sent = Sent()
    sending.send(opened(), check=False, passed=passed)
    sent = sending.sent
    sent.refused, sent.kept, sent.reason = refusals.count, refusals.kept, refusals.first
    sent.reasons = refusals.reasons
    return sent


class _Sending:
    def __init__(
        self,
        client: Client,
        service: Service,
        asked: Columns,
        refusals: Refusals,
        name: str,
        again: bool,
    ) -> None:
        self.sent = Sent()
        self._client, self._service, self._asked = client, service, asked
        self._refusals, self._name, self._again = refusals, name, again
        self._said: OrderedDict[Said, tuple[int, OutcomeGiven]] = OrderedDict()

    def send(
        self, rows: Iterator[Read], *, check: bool, passed: Callable[[], None] = lambda: None
    ) -> None:
        self._said.clear()
        first = list(itertools.islice(rows, PEEKED_ROWS))
        reader = self._reader(first)
        batch: list[tuple[int, dict[str, Any], OutcomeGiven]] = []
        for number, (row, fault) in enumerate(itertools.chain(first, rows), 1):
            one = self._read(reader, number, row, fault)
            if one is not None:
                batch.append((number, row, one))
            if len(batch) >= OUTCOMES_A_CALL:
                self._send_batch(batch, check)
                passed()
                batch = []
        if batch:
            self._send_batch(batch, check)
        passed()

    def _reader(self, first: Sequence[Read]) -> Reader:
        """Raises: NotFoundError (`no-column`)."""
        service = self._service
        file = stored_service_file(service.file)
        names = dict.fromkeys(name for row, _ in first for name in row)
        labels = {one for v in self._client.versions(service.service) for one in v.manifest.labels}
        asked, is_number = self._asked, service.task in ("regression", "ranking")
        by = asked.key or ("prediction" if "prediction" in names else file.ids.key)
        label = asked.label or file.model.label
        has_value = bool(file.monitor.outcomes.unit) and VALUE in names and not is_number
        value = asked.value or (VALUE if has_value else "")
        has_at = AT in names and AT not in (label, by, value)
        wanted = [by, asked.at, asked.value, *([] if value else [label])]
        for one in wanted if first else ():
            if one not in names and (one or one is by):
                raise NotFoundError(
                    "no-column",
                    f"{self._name} has no column {one or 'prediction'!r}; it has "
                    f"{', '.join(list(names)[:12])}",
                    "name it with --column, --key, --at or --value",
                )
        columns = Columns(label=label, key=by, at=asked.at or (AT if has_at else ""), value=value)
        return Reader(columns, labels, is_number=is_number)

    def _read(
        self, reader: Reader, number: int, row: dict[str, Any], fault: str
    ) -> OutcomeGiven | None:
        """None if there is nothing to send."""
        try:
            if fault:
                raise ValueError(fault)
            one = reader.read(row)
            if one is None:
                self.sent.unknown += 1
                return None
            before, same = self._said.setdefault((one.prediction, one.key, one.at), (number, one))
            if len(self._said) > REMEMBERED_MAX:
                self._said.popitem(last=False)
            if same != one:
                raise ValueError(f"row {before} says another outcome of this at this time")
            if before != number:
                self.sent.repeated += 1
                return None
        except ValueError as error:
            self._refusals.add(number, row, str(error))
            return None
        return one

    def _send_batch(
        self, batch: Sequence[tuple[int, dict[str, Any], OutcomeGiven]], check: bool
    ) -> None:
        service, given = self._service.service, [one for _, _, one in batch]
        name = "" if self._again or check else batch_of(service, given)
        found = self._client.tell_outcomes(service, given, name, check=check)
        self.sent.recorded += found.recorded
        self.sent.repeated += len(given) - len(found.refused) - found.recorded
        for one in found.refused:
            number, row, _ = batch[one.index]
            self._refusals.add(number, row, one.reason)


def batch_of(service: str, given: Sequence[OutcomeGiven]) -> str:
    """The name of this set of outcomes: the same ones have the same."""
    return digest_of(msgspec.json.encode([service, given]))
