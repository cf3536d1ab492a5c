import msgspec
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.instant import SECOND_US
from doorstep.journal.index import Entry, ListedFile, append_entry, fold, read_entries
from doorstep.journal.retain import (
    AHEAD_S,
    SETTLED_S,
    STANDS_S,
    Bounds,
    apply_bounds,
    pending_dropped,
    plan_drops,
    read_notice,
)

DAY = 86400 * SECOND_US
NOW = 1_000 * DAY
NO_LIMIT = 1e12


def day(number: int, service: str = "loans", size: int = 100) -> ListedFile:
    """The file of a day."""
    first = number * DAY
    return ListedFile(
        path=f"compacted/{service}-{number}.parquet", summary=f"compacted/{service}-{number}.json",
        service=service, holds="predictions", layout="0" * 64, level="day", rows=10, bytes=size,
        sha256="0" * 64, first=first, last=first + DAY - 1,
    )  # fmt: skip


files_of = st.lists(
    st.builds(
        day, st.integers(900, 999), st.sampled_from(["loans", "prices"]), st.integers(1, 1000)
    ),
    max_size=30,
    unique_by=lambda one: one.path,
)


@given(files_of, st.integers(1, 120), st.integers(0, 20_000))
def test_what_goes_is_too_old_or_the_oldest_of_too_much_and_nothing_else(files, keep, most):
    bounds = Bounds({"loans": keep * 86400.0}, most)
    drops = plan_drops(files, bounds, NOW)
    gone = {one.file.path: one.why for one in drops}
    left = [one for one in files if one.path not in gone]
    for one in files:
        is_old = one.service == "loans" and NOW - one.last > keep * DAY
        assert (gone.get(one.path) == "age") is is_old
    by_size = [one.file for one in drops if one.why == "size"]
    if by_size:
        newest = max(by_size, key=lambda one: (one.last, one.path))
        assert all((one.last, one.path) > (newest.last, newest.path) for one in left)
        assert sum(one.bytes for one in left) + newest.bytes > most
        assert all(NOW - one.first >= SETTLED_S * SECOND_US for one in by_size)
    settled = [one for one in left if NOW - one.first >= SETTLED_S * SECOND_US]
    assert sum(one.bytes for one in left) <= most or not settled


def test_nothing_goes_before_it_was_said_for_a_day_and_what_went_is_told_to_the_ledger_once(
    tmp_path,
):
    folder = tmp_path / "journal" / "n1"
    folder.mkdir(parents=True)
    old, older, new = day(901), day(900), day(999)
    append_entry(folder, Entry(at=NOW, files=(old, older, new)))
    bounds = Bounds({"loans": 50 * 86400.0}, NO_LIMIT)

    def run(now):
        return apply_bounds(folder, fold(read_entries(folder)).files.values(), bounds, now)

    assert run(NOW) is None
    said = read_notice(folder).services["loans"]
    assert (said.files, said.rows, said.why, said.since) == (2, 20, "age", NOW)
    assert run(NOW + STANDS_S * SECOND_US - 1) is None
    assert pending_dropped(tmp_path) == []
    entry = run(NOW + STANDS_S * SECOND_US)
    assert entry.replaces == (older.path, old.path)
    assert set(fold(read_entries(folder)).files) == {new.path}
    assert [one.file for _, one in pending_dropped(tmp_path)] == [older.path, old.path]
    assert run(NOW + STANDS_S * SECOND_US + 1) is None
    assert read_notice(folder).services == {}


def test_what_will_be_too_old_is_said_a_week_before(tmp_path):
    folder = tmp_path / "n1"
    folder.mkdir()
    bounds = Bounds({"loans": 50 * 86400.0}, NO_LIMIT)
    soon = day(960)
    goes_at = soon.last + 50 * DAY
    apply_bounds(folder, [soon], bounds, goes_at - AHEAD_S * SECOND_US)
    assert read_notice(folder).services == {}
    apply_bounds(folder, [soon], bounds, goes_at - AHEAD_S * SECOND_US + 1)
    assert read_notice(folder).services["loans"].rows == 10
    assert apply_bounds(folder, [soon], bounds, goes_at) is None
    assert apply_bounds(folder, [soon], bounds, goes_at + 1) is not None


def test_a_journal_that_is_nearly_full_says_so_before_anything_goes(tmp_path):
    folder = tmp_path / "n1"
    folder.mkdir()
    files = [day(900 + at) for at in range(10)]
    bounds = Bounds({}, 1_050)
    apply_bounds(folder, files, bounds, NOW)
    assert read_notice(folder).services["loans"].why == "size"
    later = NOW + STANDS_S * SECOND_US
    assert apply_bounds(folder, files, bounds, later) is None
    entry = apply_bounds(folder, [*files, day(910)], bounds, later)
    assert entry.replaces == (files[0].path,)


def test_a_notice_that_cannot_be_read_is_said_again_and_stands_again(tmp_path):
    folder = tmp_path / "n1"
    folder.mkdir()
    bounds = Bounds({"loans": 1.0}, NO_LIMIT)
    apply_bounds(folder, [day(900)], bounds, NOW)
    (folder / "retention.json").write_bytes(b"{")
    later = NOW + 2 * STANDS_S * SECOND_US
    assert apply_bounds(folder, [day(900)], bounds, later) is None
    assert read_notice(folder).services["loans"].since == later
    assert msgspec.json.decode((folder / "retention.json").read_bytes())["format"] == 1


def test_a_clock_that_jumps_takes_nothing_that_was_not_said_for_a_day(tmp_path):
    folder = tmp_path / "n1"
    folder.mkdir()
    bounds = Bounds({"loans": 50 * 86400.0}, NO_LIMIT)
    files = [day(at) for at in range(945, 1000)]
    # For long: every day something is due soon, and the oldest goes.
    apply_bounds(folder, files, bounds, NOW)
    assert apply_bounds(folder, files, bounds, NOW + 2 * DAY).replaces
    files = files[5:]
    years_on = NOW + 3_650 * DAY
    assert apply_bounds(folder, files, bounds, years_on) is None
    assert apply_bounds(folder, files, bounds, years_on + DAY - 1) is None
    # Set right again: only what is due goes.
    back = apply_bounds(folder, files, bounds, NOW + 3 * DAY)
    assert back is None or set(back.replaces) <= {files[0].path, files[1].path, files[2].path}
    # It was right: a day after it was said, all that is too old goes.
    apply_bounds(folder, files, bounds, years_on)
    gone = apply_bounds(folder, files, bounds, years_on + 2 * DAY)
    assert len(gone.replaces) == len(files)
