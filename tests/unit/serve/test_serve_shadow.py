"""Which records a shadow scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.ids import hash_unit
from doorstep.core.plan import FORMAT, ReleasePlan, Segment, ServicePlan
from doorstep.core.record import Kind, PredictionMeta, layout_of
from doorstep.serve.cells import SLOTS_MAX, CellKey, Counts, read_cells
from doorstep.serve.nodeplan import PLAN_FILE, NodePlan, in_shadow
from doorstep.serve.shadow import Met, Shadow, Target, has_inputs
from doorstep.testing.home import TestHome

REQUESTS = 2000


def record(request: bytes, **changes: Any) -> PredictionMeta:
    said: dict[str, Any] = {
        "request": request, "row": 0, "at": 0, "version": 1, "assigned": 1, "status": 0,
        "kind": int(Kind.LIVE), "release": "r", "epoch": 1, "share": 0.0, "segment": "", "key": "",
        "unit": "u", "latency_us": 1, "warnings": (), "texts": (),
    }  # fmt: skip
    return PredictionMeta(**(said | changes))


def wanted(sample: float, rows: list[PredictionMeta]) -> int:
    release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=1, sample=sample)
    target = cast(Target, SimpleNamespace(release=release))
    return sum(Target.wants(target, row) for row in rows)


@pytest.mark.parametrize("sample", [0.1, 0.25, 0.5, 0.9])
def test_the_sample_is_the_share_of_requests_that_was_asked_for(sample: float) -> None:
    rows = [record(at.to_bytes(16, "big")) for at in range(REQUESTS)]
    assert abs(wanted(sample, rows) / REQUESTS - sample) < 0.05
    assert (wanted(0.0, rows), wanted(1.0, rows)) == (0, REQUESTS)


def test_other_releases_and_other_kinds_are_not_scored() -> None:
    request = bytes(16)
    assert wanted(1.0, [record(request)]) == 1
    assert wanted(1.0, [record(request, release="other")]) == 0
    assert wanted(1.0, [record(request, kind=int(Kind.SHADOW))]) == 0


def test_a_record_whose_inputs_were_not_kept_cannot_be_scored() -> None:
    contract = Contract(inputs=(Field(name="a", type="float"),))
    assert has_inputs(layout_of("s", contract, ("yes",)))
    assert not has_inputs(layout_of("s", Contract(inputs=()), ("yes",)))


def test_a_challenger_that_must_not_be_loaded_is_scored_by_nobody(tmp_path: Path) -> None:
    home, state = TestHome(tmp_path / "home"), tmp_path / "state"
    state.mkdir()
    contract = home.contract(1)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    release = ReleasePlan(id="r1", challenger=2, state="shadow", epoch=1, sample=1.0)
    plan = NodePlan(
        format=1, generation=1, term=1, number=1, environment="t",
        bundles=str(home.path / "bundles"), lease_s=60.0, engines={},
        services=(home.service("loans", bundles, release=release),), unloaded=("loans@2",),
    )  # fmt: skip
    shadow = Shadow(home.path, "n", state)
    for one, expected in ((plan, set()), (msgspec.structs.replace(plan, unloaded=()), {"loans"})):
        (state / PLAN_FILE).write_bytes(msgspec.json.encode(one))
        shadow.tick()
        assert set(shadow._targets) == expected
    shadow.close()


def test_of_a_unit_the_first_pair_counts_and_the_first_in_which_one_version_erred(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").mkdir()
    shadow = Shadow(tmp_path, "n", tmp_path / "state")
    release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=1, sample=1.0)
    version = SimpleNamespace(labels=("no", "yes"))
    target = cast(Target, SimpleNamespace(release=release, version=version))
    shadow._met["r"] = Met()

    def came(unit: str, champion: int, challenger: int, request: int = 0, row: int = 0) -> None:
        row_ = record(request.to_bytes(16, "big"), unit=unit, row=row, texts=("yes",))
        given = [msgspec.structs.replace(row_, status=one) for one in (champion, challenger)]
        shadow._count(target, given[0], msgspec.structs.replace(given[1], texts=("no",)))

    for champion, challenger in ((0, 0), (0, 0), (0, 1), (0, 1), (1, 0)):
        came("often", champion, challenger)
    came("worse", 0, 1)
    came("other", 1, 0)
    nobody = str(UUID(int=7))
    for row in range(3):
        came(nobody, 0, 0, request=7, row=row)
    shadow.close()
    (cells,) = (read_cells(one).cells for one in (tmp_path / "state" / "cells").iterdir())
    found = cells[CellKey("r", 1, "", "challenger")]
    assert (found.requests, found.ok, found.bad) == (10, 7, 3)
    assert (found.plus, found.zero, found.minus) == (2, 4, 1)
    assert set(found.bad_units) == {hash_unit("unit", one) for one in ("often", "worse")}
    assert set(found.seen) == {hash_unit("unit", "other")}
    assert (found.alike, found.differ) == (0, 4)


def test_the_shadows_that_have_no_room_are_said_and_not_scored() -> None:
    release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=1, sample=1.0)
    home = TestHome.contract(1)
    many = tuple(Segment(name=f"s{at}", match={"store": (str(at),)}) for at in range(39))
    plans = [
        ServicePlan(
            format=FORMAT, service=name, contract=home, versions=(), champion=None,
            release=release, segments=many[:count],
        )
        for name, count in (("c", 23), ("a", 39), ("b", 24))
    ]  # fmt: skip
    plan = NodePlan(
        format=1, generation=1, term=1, number=1, environment="t", bundles="", lease_s=60.0,
        engines={}, services=tuple(plans),
    )  # fmt: skip
    scored, said = in_shadow(plan)
    assert [one.service for one in scored] == ["a", "c"]
    assert len(said) == 1
    assert said[0].startswith("b@2 is not scored in shadow on this node: its 25 segments are not")


def test_a_full_cell_file_of_a_shadow_makes_room_in_another(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    shadow = Shadow(tmp_path, "n", tmp_path / "state")
    epochs = SLOTS_MAX // 2 + 1
    for epoch in range(epochs):
        release = ReleasePlan(id="r", challenger=2, state="shadow", epoch=epoch, sample=1.0)
        slot = shadow._slot(release, "")
        shadow._cells.score(slot, ok=True)
    shadow.close()
    total = Counts()
    for path in (tmp_path / "state" / "cells").iterdir():
        total.add(read_cells(path))
    assert sum(one.requests for one in total.cells.values()) == epochs
