"""A body of lines, cut into chunks anywhere, becomes outcomes a thousand at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from doorstep.api.streams import LINE_BYTES_MAX, REFUSED_SAID_MAX, OutcomeStream, lines_of
from doorstep.core.outcome import Refused
from doorstep.journal.surface import OutcomesRecorded, OutcomesTold, RecordOutcomes


async def chunks_of(parts: list[bytes]) -> AsyncIterator[bytes]:
    for one in parts:
        yield one


def lines(parts: list[bytes]) -> list[bytes]:
    async def read() -> list[bytes]:
        return [one async for one in lines_of(chunks_of(parts))]

    return asyncio.run(read())


@given(st.lists(st.binary(max_size=6).map(lambda one: one.replace(b"x", b"\n")), max_size=12))
def test_lines_are_the_same_wherever_the_body_is_cut(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    expected = whole.split(b"\n")
    assert lines(parts) == (expected if expected[-1] else expected[:-1])


def test_a_line_without_end_is_cut_and_the_next_one_is_read() -> None:
    parts = [b"a\n", *[b"y" * 30_000] * 5, b"z\nb"]
    found = lines(parts)
    assert [len(one) for one in found] == [1, LINE_BYTES_MAX + 1, 1]
    assert found[2] == b"b"


class Recorded:
    """Records all but what has the label `no`."""

    def __init__(self) -> None:
        self.asked: list[RecordOutcomes] = []

    async def __call__(self, asked: RecordOutcomes) -> OutcomesRecorded:
        self.asked.append(asked)
        bad = [at for at, one in enumerate(asked.outcomes) if one.label == "no"]
        return OutcomesRecorded(
            recorded=len(asked.outcomes) - len(bad),
            refused=tuple(Refused(index=at, reason="no") for at in bad),
        )


def told(parts: list[bytes], record: Recorded) -> OutcomesTold:
    return asyncio.run(OutcomeStream("loans", record).take(chunks_of(parts)))


def test_refused_lines_are_named_by_their_number_and_only_the_first_thousand() -> None:
    record = Recorded()
    good, bad = b'{"key": "k", "label": "yes"}\n', b'{"key": "k", "label": "no"}\n'
    found = told([good, b"\n", bad, b"{}x\n", b"[" * 5000 + b"\n", good * 1500], record)
    assert (found.recorded, found.refused_rows) == (1501, 3)
    assert sorted(one.index for one in found.refused) == [3, 4, 5]
    assert [len(one.outcomes) for one in record.asked] == [998, 504]
    assert len({one.batch for one in record.asked}) == 2
    many = told([bad * (REFUSED_SAID_MAX + 5)], Recorded())
    assert (many.refused_rows, len(many.refused)) == (REFUSED_SAID_MAX + 5, REFUSED_SAID_MAX)


def test_the_same_lines_have_the_same_name_and_those_of_another_service_another() -> None:
    record, line = Recorded(), b'{"key": "k", "label": "yes"}\n'
    told([line], record)
    told([line[:9], line[9:]], record)
    asyncio.run(OutcomeStream("other", record).take(chunks_of([line])))
    one, again, other = (asked.batch for asked in record.asked)
    assert one == again != other
