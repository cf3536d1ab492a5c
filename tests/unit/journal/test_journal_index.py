import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.journal import merge as merging
from doorstep.journal.index import (
    Entry,
    ListedFile,
    append_entry,
    fold,
    read_entries,
)
from doorstep.journal.merge import (
    DAY_S,
    HOUR_S,
    REPLACED_KEPT_S,
    SETTLED_S,
    STEMS_KEPT_S,
    plan_merges,
    remove_replaced,
    shorten_index,
)

HOUR, DAY = HOUR_S * 10**6, DAY_S * 10**6
DAY_START = 19_000 * DAY


def listed(path, first=DAY_START, level="block", size=100, layout="l1", **changes):
    fields = {
        "path": path, "summary": path + ".json", "service": "loans", "holds": "predictions",
        "layout": layout, "level": level, "rows": 1, "bytes": size, "sha256": "", "first": first,
        "last": first + 1,
    }  # fmt: skip
    return ListedFile(**(fields | changes))


def paths(merges):
    return [(one.level, [file.path for file in one.files]) for one in merges]


def test_the_list_is_what_the_lines_lead_to(tmp_path):
    append_entry(tmp_path, Entry(at=1, block="b1", files=(listed("a"),)))
    append_entry(tmp_path, Entry(at=2, block="b2", files=(listed("b"),)))
    append_entry(tmp_path, Entry(at=3, files=(listed("c"),), replaces=("a", "b")))
    found = fold(read_entries(tmp_path))
    assert set(found.files) == {"c"}
    assert found.blocks == {"b1", "b2"}
    assert found.replaced == {"a": 3, "b": 3}


@settings(deadline=None)
@given(st.integers(0, 400))
def test_an_index_cut_anywhere_reads_as_its_whole_lines_and_takes_the_next(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("index")
    for block in ("b1", "b2"):
        append_entry(folder, Entry(at=1, block=block))
    data = (folder / "index.jsonl").read_bytes()
    (folder / "index.jsonl").write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert [one.block for one in read_entries(folder)] == ["b1", "b2"][:whole]
    append_entry(folder, Entry(at=2, block="b3"))
    assert [one.block for one in read_entries(folder)] == [*["b1", "b2"][:whole], "b3"]


def test_a_whole_line_that_is_no_entry_is_an_error_and_not_ignored(tmp_path):
    (tmp_path / "index.jsonl").write_bytes(b"{}\n")
    with pytest.raises(InputError, match="bad-index"):
        read_entries(tmp_path)


def test_an_hour_is_merged_when_it_has_settled_and_not_before():
    files = [listed("a"), listed("b", DAY_START + HOUR - 1), listed("c", DAY_START + HOUR)]
    due = DAY_START + HOUR + SETTLED_S["hour"] * 10**6
    assert plan_merges(files, due - 1) == []
    assert paths(plan_merges(files, due)) == [("hour", ["a", "b"])]


def test_a_day_takes_its_hours_and_is_not_merged_again_without_something_new():
    files = [listed("a", level="hour"), listed("b", DAY_START + HOUR, level="hour")]
    due = DAY_START + DAY + SETTLED_S["day"] * 10**6
    assert plan_merges(files, due - 1) == []
    assert paths(plan_merges(files, due)) == [("day", ["a", "b"])]
    days = [listed("d", level="day"), listed("e", level="day")]
    assert plan_merges(days, due) == []
    assert paths(plan_merges([*days, listed("late")], due)) == [("day", ["d", "e", "late"])]


def test_layouts_services_and_outcomes_do_not_mix():
    files = [
        listed("a"),
        listed("b", layout="l2"),
        listed("c", service="fraud"),
        listed("d", holds="outcomes"),
    ]
    assert plan_merges(files, DAY_START + 10 * DAY) == []


def test_a_merge_stays_below_its_size():
    half = merging.MERGE_BYTES_MAX // 2
    files = [listed(name, size=half) for name in "abcd"] + [listed("e", size=3 * half)]
    found = paths(plan_merges(files, DAY_START + 10 * DAY))
    assert found == [("day", ["a", "b"]), ("day", ["c", "d"])]


def test_replaced_files_stay_until_no_reader_can_be_at_them(tmp_path):
    for name in ("a.parquet", "a.json", "b.parquet"):
        (tmp_path / name).touch()
    listing = fold([Entry(at=0, files=(listed("b.parquet"),), replaces=("a.parquet",))])
    remove_replaced(tmp_path, listing, REPLACED_KEPT_S * 10**6)
    assert (tmp_path / "a.parquet").exists()
    remove_replaced(tmp_path, listing, REPLACED_KEPT_S * 10**6 + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.parquet"]


def test_a_long_index_is_rewritten_and_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "ENTRIES_SPARE_MAX", 10)
    for i in range(6):
        append_entry(tmp_path, Entry(at=i, block=f"b{i}", files=(listed(f"f{i}"),)))
    now = STEMS_KEPT_S * 10**6 + 4
    append_entry(tmp_path, Entry(at=now, files=(listed("m"),), replaces=("f0", "f1", "f2", "f3")))
    (tmp_path / "f0").touch()
    (tmp_path / "b1.block").touch()
    assert not shorten_index(tmp_path, now)
    for i in range(10):
        append_entry(tmp_path, Entry(at=now, replaces=(f"gone{i}",)))
    before = fold(read_entries(tmp_path))
    assert shorten_index(tmp_path, now)
    after = fold(read_entries(tmp_path))
    assert after.files == before.files
    assert after.blocks == {"b1", "b4", "b5"}
    assert set(after.replaced) == {"f0"}
    assert not shorten_index(tmp_path, now)


def test_entries_survive_their_encoding():
    entry = Entry(at=1, block="b", files=(listed("a"),), replaces=("x",))
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry
