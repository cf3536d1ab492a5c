"""What must be the same number: published vectors, and counts that are merged in any order."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
from table import Part

from doorstep.core.report import Cell as NodeCell
from doorstep.release.decide import decide
from doorstep.release.evidence import Gathered, cells_of, evidence_of, merge
from doorstep.release.quality import quality_numbers
from doorstep.release.transition import Beginning, begin
from doorstep.release.types import Guardrail, LossCell, ReleaseSpec
from doorstep.stats import eprocess

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/unit/stats"))
from test_eprocess_vectors import COMPUTED, VECTORS

MINUTE_US = 60_000_000
NODES, BOOTS = 7, 3
FLOAT_MAX = 1e-9


def vectors(rng: np.random.Generator, runs: int) -> Part:
    """Goal 6, first half."""
    del rng, runs
    part = Part("Published vectors")
    worst = max(
        float(np.max(np.abs(np.asarray(compute()) - np.asarray(vector["value"]))))
        for vector, compute in zip(VECTORS, COMPUTED, strict=True)
    )
    part.row(f"{len(VECTORS)} numbers", f"off by {worst:.1e}")
    part.goal(worst <= 1e-6, f"off by {worst:.1e}")
    return part


def shards(rng: np.random.Generator, runs: int) -> Part:
    """Goal 6, second half: reports of nodes in any order, some twice; losses in any order."""
    part = Part(f"Merging: {NODES} nodes, {BOOTS} boots each, {runs} orders")
    release = begin(
        Beginning(id="r", service="s", champion=1, challenger=2,
                  spec=ReleaseSpec(shadow_requests=0, warmup_s=0.0)), 0
    )  # fmt: skip
    reports = [
        _report(rng, f"n{node}", str(boot)) for node in range(NODES) for boot in range(BOOTS)
    ]
    decisions = set()
    for _ in range(runs):
        gathered: Gathered = {}
        for at in rng.permutation(
            np.append(np.arange(len(reports)), rng.integers(0, len(reports), 5))
        ):
            gathered = merge(gathered, reports[at])
        made = decide(release, evidence_of(release, gathered), MINUTE_US)
        decisions.add(msgspec.json.encode(made))
    part.row("decisions and all their numbers", f"{len(decisions)} different")
    part.goal(len(decisions) == 1, f"{len(decisions)} different decisions")
    off = _losses_off(rng, runs)
    part.row("log E of losses", f"off by {off:.1e}")
    part.goal(off <= FLOAT_MAX, f"log E of losses off by {off:.1e}")
    return part


def _report(rng: np.random.Generator, node: str, boot: str) -> Gathered:
    def units(n: int) -> bytes:
        return rng.integers(0, 4000, n, dtype=np.uint64).tobytes()

    arms = ("champion", "challenger")
    cells = [
        NodeCell(release="r", epoch=1, segment="", arm=arm, requests=90, ok=80, bad=10,
                 seen=units(90), bad_units=units(4))
        for arm in arms
    ]  # fmt: skip
    return cells_of(node, boot, cells)


def _losses_off(rng: np.random.Generator, runs: int) -> float:
    """How far log E of the same losses lies apart when epochs come in another order."""
    guardrail = Guardrail(name="quality", tolerance=0.0, margins=(0.005,) * 4)
    release = begin(Beginning(id="r", service="s", champion=1, challenger=2, spec=ReleaseSpec()), 0)
    epochs = [msgspec.structs.replace(release.epoch, number=at, share=0.5) for at in range(1, 200)]
    release = msgspec.structs.replace(release, epochs=tuple(epochs))
    cells = [_loss_cell(rng, epoch) for epoch in range(1, 200)]
    found = []
    for _ in range(runs):
        mixed = [cells[at] for at in rng.permutation(len(cells))]
        found.append(quality_numbers(release, mixed, guardrail).log_e_rollback)
    return max(found) - min(found)


def _loss_cell(rng: np.random.Generator, epoch: int) -> LossCell:
    is_b, loss = rng.random(500) < 0.5, rng.random(500)
    wealth = [
        tuple(eprocess.residual_wealth(is_b, loss, 0.5, 0.5, delta, d).tolist())
        for delta, d in ((0.0, +1), (0.005, -1))
    ]
    return LossCell(
        epoch=epoch, segment="", paired=False, champion=(1, 0.0), challenger=(1, 0.0),
        sums=(0, 0.0, 0.0), margin=0.005, worse=wealth[0], better=wealth[1],
    )  # fmt: skip
