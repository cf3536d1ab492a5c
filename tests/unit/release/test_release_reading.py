"""What the journal says of a release is read in parts: however many, it is the same; and what is
told of a prediction after its age changes nothing of it."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from release_cases import T0, at, in_step, started

from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US
from doorstep.core.record import Column, Kind, Layout, OutcomeRecord, PredictionMeta
from doorstep.journal.writer import BlockWriter
from doorstep.release.reading import Asked, ask, read
from doorstep.release.types import Guardrail, LossCell, Release

LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(Column("out.yes", "float"), Column("out.no", "float")),
    texts=(Column("ctx.group", "category"), Column("out.answer", "text")),
)
QUALITY = Guardrail(name="quality", tolerance=0.0, margins=(0.05,), reference=0.2, label="yes")
WORTH = Guardrail(name="revenue", tolerance=0.0, margins=(0.05,), loss_max=10.0, delay_s=60.0)
CONVERSION = Guardrail(name="conversion", tolerance=0.0, margins=(0.05,), label="yes", delay_s=60.0)
MEANS = Guardrail(name="mean-latency", tolerance=0.05, margins=(0.2,), loss_max=2000.0)
ONE_STEP: dict[str, Any] = {"steps": (0.5,), "dwell_s": (0.0,), "margins": (2.0,)}


class Journal:
    """Blocks of one writer, open."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._writer = BlockWriter(home / "journal", node="n1", boot="b1", slot="s0")
        self._layout = self._writer.declare(LAYOUT)

    def predict(self, at: int, request: bytes = b"", yes: float = 0.8, **more: Any) -> str:
        fields: dict[str, Any] = {
            "request": request or new_id().bytes, "row": 0, "at": at, "version": 1, "assigned": 1,
            "status": 0, "kind": 0, "release": "r1", "epoch": 1, "share": 0.5, "segment": "",
            "key": "", "unit": "", "latency_us": 900, "warnings": (),
            "texts": ("a", "yes" if yes >= 0.5 else "no"),
        }  # fmt: skip
        row = PredictionMeta(**(fields | more))
        self._writer.predictions(self._layout, [row], struct.pack("<2d", yes, 1.0 - yes))
        return str(UUID(bytes=row.request))

    def tell(
        self, prediction: str, received_at: int, label: str | None = None, **more: Any
    ) -> None:
        fields = {"service": "loans", "at": received_at, "received_at": received_at}
        said = {"prediction": prediction, "label": label} | more
        self._writer.outcome(OutcomeRecord(**(fields | said)))

    def asked(self, release: Release, guardrail: Guardrail, seconds: float) -> Asked:
        self._writer.flush()
        return Asked(home=str(self.home), release=release, metric=guardrail.name,
                     guardrail=guardrail, now=at(seconds))  # fmt: skip


def in_canary(*guardrails: Guardrail, **more: Any) -> Release:
    weighed = [msgspec.structs.replace(one, weight=1 / len(guardrails)) for one in guardrails]
    return in_step(guardrails=tuple(weighed), **(ONE_STEP | more))


def drawn(journal: Journal, count: int, kinds: tuple[Kind, ...]) -> None:
    """Units that come again, some without a name; outcomes once, twice, and none."""
    chance = random.Random(7)
    for place in range(count):
        now = T0 + place * 1000
        unit = chance.choice(["", f"u{chance.randrange(count // 3)}"])
        version = 2 if chance.random() < 0.5 else 1
        first = {"assigned": version, "version": version} if len(kinds) == 1 else {}
        request, group = new_id().bytes, chance.choice("aab")
        texts = (group, chance.choice(["yes", "no"]))
        name = journal.predict(now, request, chance.random(), unit=unit, texts=texts,
                               latency_us=chance.randrange(3000), **first)  # fmt: skip
        if len(kinds) == 2:
            texts = (group, chance.choice(["yes", "no"]))
            journal.predict(now + 1, request, chance.random(), unit=unit, texts=texts,
                            kind=int(Kind.SHADOW), assigned=2, version=2)  # fmt: skip
        for _ in range(chance.randrange(3)):
            label, value = chance.choice(["yes", "no"]), chance.random() * 20.0
            journal.tell(name, now + chance.randrange(90) * SECOND_US, label, value=value)


def same(one: LossCell, other: LossCell) -> bool:
    a, b = (msgspec.structs.asdict(cell) for cell in (one, other))
    exact = ("epoch", "segment", "paired", "metric", "part", "margin")
    floats = ("champion", "challenger", "sums", "worse", "better")
    return all(a[name] == b[name] for name in exact) and all(
        np.allclose(a[name], b[name], rtol=1e-9, atol=1e-9) for name in floats
    )


@pytest.mark.parametrize(
    "guardrail",
    [QUALITY, msgspec.structs.replace(QUALITY, loss="brier"), WORTH, CONVERSION, MEANS],
    ids=lambda one: f"{one.name} {one.loss}",
)
@pytest.mark.parametrize("kinds", [(Kind.LIVE,), (Kind.LIVE, Kind.SHADOW)], ids=len)
def test_in_however_many_parts_it_is_read_the_evidence_is_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    guardrail: Guardrail,
    kinds: tuple[Kind, ...],
) -> None:
    journal = Journal(tmp_path)
    drawn(journal, 300, kinds)
    release = in_canary(guardrail)
    if len(kinds) == 2:
        weighed = (msgspec.structs.replace(guardrail, weight=1.0),)
        release = started(guardrails=weighed, warmup_s=0.0, **ONE_STEP)
    asked = journal.asked(release, guardrail, 1000.0)
    whole = read(asked)
    monkeypatch.setattr("doorstep.journal.joined.PART_ROWS", 20)
    parts = read(asked)
    assert len(whole.cells) == len(parts.cells)
    assert all(map(same, whole.cells, parts.cells))
    if guardrail is QUALITY or len(kinds) == 1:
        assert sum(one.sums[0] for one in whole.cells) > 50
    # Nothing of it is kept: whoever asks next, in a process of its own, is told the same.
    assert all(map(same, ask(asked).cells, parts.cells))


def test_fairness_compares_in_order_of_time_over_all_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    drawn(journal, 300, (Kind.LIVE,))
    guardrail = Guardrail(name="fairness", tolerance=0.05, margins=(0.1,), label="yes",
                          field="group", groups=(("a", 2), ("b", 2)))  # fmt: skip
    asked = journal.asked(in_canary(guardrail), guardrail, 1000.0)
    whole = read(asked)
    assert whole.cells and whole.cells[0].champion[0] > 10
    monkeypatch.setattr("doorstep.journal.joined.PART_ROWS", 20)
    assert read(asked) == whole


def test_a_correction_counts_up_to_the_age_and_changes_nothing_after_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    guardrail = msgspec.structs.replace(QUALITY, delay_s=60.0)
    for version in (1, 2):
        right, corrected, late, unknown = (
            journal.predict(T0 + place, assigned=version) for place in range(4)
        )
        journal.tell(right, at(10), "yes")
        journal.tell(corrected, at(10), "yes")
        journal.tell(corrected, at(50), "no")
        # Told in time and corrected when its time was over: it stays what it was.
        journal.tell(late, at(10), "yes")
        journal.tell(late, at(90), "no")
        journal.tell(unknown, at(90), "no")
    release = in_canary(guardrail)
    (cell,) = read(journal.asked(release, guardrail, 1000.0)).cells
    assert cell.champion == cell.challenger == (3, 1.0)
    # Without an age there is no time after which it stays: the newest counts.
    (now,) = read(journal.asked(in_canary(QUALITY), QUALITY, 1000.0)).cells
    assert now.champion == now.challenger == (4, 3.0)


def test_what_a_unit_was_worth_is_what_was_known_when_its_time_was_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for version in (1, 2):
        first, again = (
            journal.predict(at(second), assigned=version, unit=f"u{version}") for second in (1, 31)
        )
        journal.tell(first, at(20), value=2.0)
        journal.tell(again, at(40), value=3.0)
        # By the age of the request itself, but not by that of its unit.
        journal.tell(again, at(80), value=0.0)
        journal.tell(first, at(80), value=0.0)
    (cell,) = read(journal.asked(in_canary(WORTH), WORTH, 1000.0)).cells
    assert cell.champion == cell.challenger == (1, 0.5)
