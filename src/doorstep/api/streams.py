"""A body of outcomes, one JSON object a line, however long: in memory is what one call takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from doorstep.core.ids import digest_of
from doorstep.core.outcome import OutcomeGiven, Refused
from doorstep.journal.surface import OutcomesRecorded, OutcomesTold, RecordOutcomes

LINE_BYTES_MAX = 64 * 1024
LINES_A_CALL = 1_000
REFUSED_SAID_MAX = 1_000
Record = Callable[[RecordOutcomes], Awaitable[OutcomesRecorded]]


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines without their ends. One that is longer than LINE_BYTES_MAX is cut there."""
    rest, is_cut = b"", False
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if not is_cut:
                yield line
            is_cut = False
        if len(rest) > LINE_BYTES_MAX:
            if not is_cut:
                yield rest[: LINE_BYTES_MAX + 1]
            rest, is_cut = b"", True
    if rest and not is_cut:
        yield rest


class OutcomeStream:
    """Records outcomes a thousand lines at a time. The same lines sent again are known by their
    digest and not recorded twice."""

    def __init__(self, service: str, record: Record) -> None:
        self._service, self._record = service, record
        self._decode = msgspec.json.Decoder(OutcomeGiven).decode
        self._recorded = self._known = self._refused_rows = 0
        self._refused: list[Refused] = []

    async def take(self, chunks: AsyncIterator[bytes]) -> OutcomesTold:
        """What became of all of them. Raises: what recording raises; the lines before are kept."""
        batch: list[tuple[int, bytes]] = []
        number = 0
        async for line in lines_of(chunks):
            number += 1
            if line.strip():
                batch.append((number, line))
            if len(batch) >= LINES_A_CALL:
                await self._send(batch)
                batch = []
        if batch or not number:
            await self._send(batch)
        return OutcomesTold(
            recorded=self._recorded,
            known=self._known,
            refused_rows=self._refused_rows,
            refused=tuple(self._refused),
        )

    async def _send(self, batch: list[tuple[int, bytes]]) -> None:
        given: list[tuple[int, OutcomeGiven]] = []
        for number, line in batch:
            try:
                if len(line) > LINE_BYTES_MAX:
                    raise ValueError(f"a line of more than {LINE_BYTES_MAX:,} bytes")
                given.append((number, self._decode(line)))
            except (ValueError, RecursionError) as error:
                self._refuse(number, str(error))
        name = digest_of(b"\n".join((self._service.encode(), *(line for _, line in batch))))
        asked = RecordOutcomes(
            service=self._service,
            outcomes=tuple(one for _, one in given),
            batch=name if given else "",
            partial=True,
        )
        found = await self._record(asked)
        self._recorded += found.recorded
        self._known += len(given) - len(found.refused) - found.recorded
        for one in found.refused:
            self._refuse(given[one.index][0], one.reason)

    def _refuse(self, number: int, reason: str) -> None:
        self._refused_rows += 1
        if len(self._refused) < REFUSED_SAID_MAX:
            self._refused.append(Refused(index=number, reason=reason))
