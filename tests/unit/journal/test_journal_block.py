import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_samples import LAYOUT, OUTCOME, encode_predictions, meta

from doorstep.core.errors import InputError, OverloadedError
from doorstep.core.record import PredictionMeta
from doorstep.journal import block
from doorstep.journal.block import BlockEnd, BlockHeader, FrameKind, Stop

HEADER = BlockHeader(format=1, node="n1", boot="b1", slot="front-0", sequence=7, opened_at=1000)


def small_block() -> bytes:
    return b"".join(
        (
            block.encode_header(HEADER),
            block.encode_layout(1, LAYOUT),
            encode_predictions(1, [meta(0), meta(1)], struct.pack("<4d", 1, 2, 3, 4)),
            block.encode_outcome(OUTCOME),
            block.encode_end(BlockEnd(frames=4, rows=2, outcomes=1)),
        )
    )


def ends(data: bytes) -> list[int]:
    return [frame.end for frame in block.scan(memoryview(data))[0]]


def test_a_whole_block_decodes_to_what_was_encoded():
    frames, end, stop = block.scan(memoryview(small_block()))
    assert (len(frames), end, stop) == (5, len(small_block()), Stop.END)
    assert block.decode_header(frames[0]) == HEADER
    assert block.decode_layout(frames[1]) == LAYOUT
    assert block.decode_predictions(frames[2], LAYOUT) == [meta(0), meta(1)]
    assert struct.unpack("<4d", frames[2].matrix) == (1, 2, 3, 4)
    assert block.decode_outcome(frames[3]) == OUTCOME
    assert block.decode_end(frames[4]).rows == 2


def test_a_tail_torn_at_any_offset_gives_exactly_the_whole_frames():
    data = small_block()
    boundaries = ends(data)
    for cut in range(len(data) + 1):
        frames, end, stop = block.scan(memoryview(data[:cut]))
        whole = [one for one in boundaries if one <= cut]
        assert [frame.end for frame in frames] == whole
        assert end == (whole[-1] if whole else 0)
        assert stop == (Stop.END if end == cut else Stop.TORN)


def test_any_flipped_bit_is_noticed_at_its_frame_and_nothing_before_it_is_lost():
    data = small_block()
    boundaries = ends(data)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        frames, end, stop = block.scan(memoryview(flipped))
        assert stop in (Stop.TORN, Stop.DAMAGED)
        assert [frame.end for frame in frames] == [one for one in boundaries if one <= bit // 8]
        assert end <= bit // 8


def test_zeros_after_the_last_frame_are_damage_and_cost_no_frame():
    frames, end, stop = block.scan(memoryview(small_block() + bytes(100)))
    assert (len(frames), end, stop) == (5, len(small_block()), Stop.DAMAGED)


@given(data=st.binary(max_size=200))
def test_scanning_arbitrary_bytes_never_raises(data):
    block.scan(memoryview(data))
    block.scan(memoryview(small_block() + data))


def test_a_frame_inside_a_text_of_a_torn_frame_is_not_read():
    fake = block.encode_outcome(OUTCOME)
    data = block.encode_header(HEADER)
    torn = block.encode_frame(FrameKind.OUTCOME, fake + bytes(50))[:-1]
    frames, end, stop = block.scan(memoryview(data + torn))
    assert (len(frames), end, stop) == (1, len(data), Stop.TORN)


def test_a_newer_format_is_refused_with_the_number_and_the_one_before_is_read():
    def header_frame(format_number: int) -> block.Frame:
        fields = msgspec.to_builtins(HEADER) | {"format": format_number}
        data = block.encode_frame(FrameKind.HEADER, msgspec.msgpack.encode(fields))
        found = block.frame_at(memoryview(data), 0)
        assert isinstance(found, block.Frame)
        return found

    assert block.decode_header(header_frame(0)).format == 0
    with pytest.raises(InputError, match=r"newer-block.*format 2"):
        block.decode_header(header_frame(2))


def test_rows_that_do_not_fit_their_numbers_are_refused():
    data = encode_predictions(1, [meta()], struct.pack("<3d", 1, 2, 3))
    frame = block.frame_at(memoryview(data), 0)
    assert isinstance(frame, block.Frame)
    with pytest.raises(InputError, match="bad-block"):
        block.decode_predictions(frame, LAYOUT)


def test_a_frame_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(block, "FRAME_BYTES_MAX", 100)
    with pytest.raises(OverloadedError, match="journal-frame-too-big"):
        block.encode_frame(FrameKind.OUTCOME, bytes(101))
    assert block.encode_frame(FrameKind.OUTCOME, bytes(100))


text = st.text(max_size=12)
metas = st.builds(
    PredictionMeta,
    request=st.binary(min_size=16, max_size=16),
    row=st.integers(0, 10_000),
    at=st.integers(0, 2**60),
    version=st.integers(-1, 100),
    assigned=st.integers(1, 100),
    status=st.integers(0, 5),
    kind=st.integers(0, 2),
    release=text,
    epoch=st.integers(0, 100),
    share=st.floats(0, 1),
    segment=text,
    key=text,
    unit=text,
    latency_us=st.integers(0, 2**40),
    warnings=st.lists(text, max_size=3).map(tuple),
    texts=st.tuples(st.none() | text, st.none() | text),
    error=text,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(metas, max_size=4), max_size=4), st.data())
def test_frames_come_back_as_they_went_in(groups, data):
    floats = st.floats(width=64)
    matrices = [
        struct.pack(f"<{len(rows) * 2}d", *[data.draw(floats) for _ in range(len(rows) * 2)])
        for rows in groups
    ]
    encoded = b"".join(
        encode_predictions(1, rows, matrix) for rows, matrix in zip(groups, matrices, strict=True)
    )
    frames, _, stop = block.scan(memoryview(encoded))
    assert stop == Stop.END
    assert [block.decode_predictions(frame, LAYOUT) for frame in frames] == groups
    assert [bytes(frame.matrix) for frame in frames] == matrices


def test_each_change_of_a_record_changes_its_leaf():
    matrix = struct.pack("<4d", 1, 2, 3, 4)
    one, two = block.prediction_leaves(LAYOUT, [meta(0), meta(1)], matrix)
    again = list(block.prediction_leaves(LAYOUT, [meta(0), meta(1)], memoryview(matrix)))
    assert again == [one, two]
    assert one != two
    (other,) = block.prediction_leaves(LAYOUT, [meta(0)], struct.pack("<2d", 1, 2.5))
    assert other != one
    assert block.outcome_leaf(OUTCOME) != one
