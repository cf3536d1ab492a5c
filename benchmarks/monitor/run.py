"""What a drift check costs and how often it is wrong, beside scipy's tests per column.

`make bench-monitor`. 20 columns (14 numbers of seven shapes, 6 categories of 2 to 200 values, some
nulls). CPU seconds of this process, because a busy machine cannot measure time. The peer is what
people write first: `scipy.stats.ks_2samp` per number and `chi2_contingency` per category on the raw
rows, an alarm where p < 0.05, and the same after Bonferroni. Exit 1 if a goal is missed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.monitor.drift import observe_drift
from doorstep.monitor.types import DriftWindow, ServiceFacts
from doorstep.stats.codes import MISSING, code_numbers, code_texts, count_codes, quantile_edges
from doorstep.stats.distances import ColumnCounts

ROWS = 100_000
WINDOW_ROWS = 5_000
NULL_WINDOWS = 300
PEER_WINDOWS = 60
POWER_WINDOWS = 25
Columns = dict[str, np.ndarray]

GOALS = {
    "check of 100k x 20, raw to verdict, CPU s": (0.15, "<="),
    "the same by scipy per column, times as much": (5.0, ">="),
    "verdict from kept counts, CPU ms": (10.0, "<="),
    "windows with a false alarm, share": (0.015, "<="),
    "weakest of 8 drifts at 5k rows, share found": (0.88, ">="),
}


def make(generator: np.random.Generator, rows: int) -> Columns:
    """Mixed columns, each shape twice with other parameters."""
    found: Columns = {}
    for half in range(2):
        found[f"normal{half}"] = generator.normal(half, 1 + half, rows)
        found[f"lognormal{half}"] = generator.lognormal(half, 0.5, rows)
        found[f"uniform{half}"] = generator.uniform(0, 1 + half, rows)
        found[f"chi2{half}"] = generator.chisquare(3 + half, rows)
        found[f"count{half}"] = generator.poisson(3 + 4 * half, rows).astype(float)
        found[f"tail{half}"] = generator.standard_t(3, rows)
        shifted = generator.normal(5, 1, rows)
        found[f"bimodal{half}"] = np.where(
            generator.random(rows) < 0.5, generator.normal(0, 1, rows), shifted
        )
    found["normal1"][generator.random(rows) < 0.02] = np.nan
    for values in (2, 5, 10, 30, 80, 200):
        weights = 1 / np.arange(1, values + 1)
        names = np.array([f"v{i:03d}" for i in range(values)], dtype=object)
        found[f"category{values}"] = generator.choice(names, rows, p=weights / weights.sum())
    return found


def profile_of(columns: Columns) -> Profile:
    return Profile(
        format=1,
        rows=len(columns["normal0"]),
        columns=tuple(_column(name, values) for name, values in columns.items()),
    )


def _column(name: str, values: np.ndarray) -> ColumnProfile:
    if values.dtype == object:
        names, counts = np.unique(values.astype(str), return_counts=True)
        known = tuple(names[np.argsort(-counts, kind="stable")].tolist())
        draft = ColumnProfile(
            name=name, type="category", categories=known[:30], known=known, counts=(), nulls=0
        )
        codes = code_texts(values.tolist(), draft)
    else:
        known = ()
        edges = quantile_edges(values)
        draft = ColumnProfile(
            name=name, type="float", edges=tuple(edges.tolist()), counts=(), nulls=0
        )
        codes = code_numbers(values, edges)
    return ColumnProfile(
        name=name,
        type=draft.type,
        edges=draft.edges,
        categories=draft.categories,
        known=known,
        counts=tuple(count_codes(codes).tolist()),
        nulls=int((codes == MISSING).sum()),
    )


def count(profile: Profile, columns: Columns) -> dict[str, ColumnCounts]:
    found = {}
    for one in profile.columns:
        values = columns[one.name]
        is_text = one.type == "category"
        codes = code_texts(values.tolist(), one) if is_text else code_numbers(values, one.edges)
        found[f"in.{one.name}"] = ColumnCounts(
            tuple(count_codes(codes).tolist()), int((codes == MISSING).sum())
        )
    return found


def judge(profile: Profile, counts: dict[str, ColumnCounts], rows: int) -> list[str]:
    """The names of the drifted columns."""
    window = DriftWindow(since=0, until=1, rows=rows, columns=counts)
    facts = ServiceFacts(service="bench", version=1, reference=profile, drift=window)
    return [one.subject for one in observe_drift(facts) if one.is_bad]


def ask_scipy(reference: Columns, now: Columns) -> dict[str, float]:
    """p per column, as people write it first."""
    found = {}
    for name, values in now.items():
        if values.dtype == object:
            both = [np.unique(one, return_counts=True) for one in (reference[name], values)]
            names = sorted(set(both[0][0]) | set(both[1][0]))
            table = [[dict(zip(*one, strict=True)).get(n, 0) for n in names] for one in both]
            found[name] = float(stats.chi2_contingency(np.array(table))[1])
        else:
            old, new = reference[name], values
            found[name] = float(stats.ks_2samp(old[~np.isnan(old)], new[~np.isnan(new)]).pvalue)
    return found


def cpu_s(work: Callable[[], object], repeats: int) -> float:
    """The least CPU time of one run."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def _recategorise(columns: Columns, generator: np.random.Generator) -> None:
    values = columns["category5"]
    values[(values == "v000") & (generator.random(len(values)) < 0.114)] = "v002"


def _lose(columns: Columns, generator: np.random.Generator) -> None:
    columns["normal1"][generator.random(len(columns["normal1"])) < 0.041] = np.nan


def _invent(columns: Columns, generator: np.random.Generator) -> None:
    columns["category10"][generator.random(len(columns["category10"])) < 0.02] = "new"


def _shift(name: str, by_sd: float) -> Callable[[Columns, np.random.Generator], None]:
    def apply(columns: Columns, _generator: np.random.Generator) -> None:
        columns[name] = columns[name] + by_sd * np.nanstd(columns[name])

    return apply


def _widen(columns: Columns, _generator: np.random.Generator) -> None:
    columns["normal0"] = columns["normal0"] * 1.25


def _grow(columns: Columns, _generator: np.random.Generator) -> None:
    columns["lognormal0"] = columns["lognormal0"] * np.linspace(1, 1.3, len(columns["lognormal0"]))


DRIFTS: dict[str, tuple[str, Callable[[Columns, np.random.Generator], None]]] = {
    "mean by 0.1 sd": ("normal0", _shift("normal0", 0.1)),
    "mean by 0.25 sd": ("uniform0", _shift("uniform0", 0.25)),
    "mean by 0.5 sd": ("chi20", _shift("chi20", 0.5)),
    "spread by 1.25": ("normal0", _widen),
    "category by 5 points": ("category5", _recategorise),
    "nulls from 2 to 6 %": ("normal1", _lose),
    "value never seen, 2 %": ("category10", _invent),
    "gradual, to 1.3 times": ("lognormal0", _grow),
}


def measure_cost(profile: Profile, reference: Columns, now: Columns) -> dict[str, float]:
    kept = count(profile, now)
    ours = cpu_s(lambda: judge(profile, count(profile, now), ROWS), 5)
    theirs = cpu_s(lambda: ask_scipy(reference, now), 2)
    return {
        "check of 100k x 20, raw to verdict, CPU s": ours,
        "the same by scipy per column, times as much": theirs / ours,
        "verdict from kept counts, CPU ms": 1000 * cpu_s(lambda: judge(profile, kept, ROWS), 20),
    }


def measure_false_alarms(
    profile: Profile, reference: Columns, generator: np.random.Generator
) -> dict[str, float]:
    alarms, plain, corrected = 0, 0, 0
    for number in range(NULL_WINDOWS):
        now = make(generator, WINDOW_ROWS)
        alarms += bool(judge(profile, count(profile, now), WINDOW_ROWS))
        if number < PEER_WINDOWS:
            least = min(ask_scipy(reference, now).values())
            plain += least < 0.05
            corrected += least < 0.05 / len(now)
    return {
        "windows with a false alarm, share": alarms / NULL_WINDOWS,
        "the same, scipy p < 0.05": plain / PEER_WINDOWS,
        "the same, scipy with Bonferroni": corrected / PEER_WINDOWS,
    }


def measure_power(profile: Profile, generator: np.random.Generator) -> dict[str, float]:
    found = {}
    for name, (column, drift) in DRIFTS.items():
        hits = 0
        for _ in range(POWER_WINDOWS):
            now = make(generator, WINDOW_ROWS)
            drift(now, generator)
            hits += column in judge(profile, count(profile, now), WINDOW_ROWS)
        found[f"found: {name}"] = hits / POWER_WINDOWS
    found["weakest of 8 drifts at 5k rows, share found"] = min(found.values())
    return found


def main() -> int:
    generator = np.random.default_rng(20261122)
    reference, now = make(generator, ROWS), make(generator, ROWS)
    profile = profile_of(reference)
    figures = measure_cost(profile, reference, now)
    figures |= measure_false_alarms(profile, reference, generator)
    figures |= measure_power(profile, generator)
    missed = print_table(figures)
    cost = figures["check of 100k x 20, raw to verdict, CPU s"]
    times = figures["the same by scipy per column, times as much"]
    alarms = figures["windows with a false alarm, share"]
    print(
        f"\nmonitor: 100k x 20 in {cost:.3f} CPU s (scipy {times:.0f} times as much), "
        f"{alarms:.1%} false alarms, {'all goals met' if not missed else 'MISSED: ' + missed}"
    )
    if "--json" in sys.argv:
        print(json.dumps(figures))
    return 1 if missed else 0


def print_table(figures: dict[str, float]) -> str:
    """Every figure with its goal; the names of the missed ones."""
    missed = []
    print(f"{'':46}{'measured':>10}{'goal':>12}")
    for name, value in figures.items():
        goal, order = GOALS.get(name, (None, ""))
        is_met = goal is None or (value <= goal if order == "<=" else value >= goal)
        mark = "" if is_met else "  missed"
        print(f"{name:46}{value:>10.4g}{f'{order} {goal:g}' if goal is not None else '':>12}{mark}")
        if not is_met:
            missed.append(name)
    return ", ".join(missed)


if __name__ == "__main__":
    raise SystemExit(main())
