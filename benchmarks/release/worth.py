"""What the journal is read for, by the functions that a release reads it with: revenue (M2), Brier
losses in pairs and gaps between groups in blocks (M3). Each without a difference that matters, at
the edge of what must be excluded, and worse; looked at after every LOOK."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from rules import LOG_LIMIT, log_mean
from streams import Floats
from table import ALPHA, Part, at_most, requests

from doorstep.release.groups import SIGNS, blocks_of
from doorstep.stats import eprocess

LOOK = 250
BUYERS, SPREAD, DEAREST = 0.05, 1.0, 2.5758
"""Of revenue: one in twenty buys, log-normal; what is above the 99.5 % quantile counts as that."""
NOISE, BRIER_MARGIN = 0.1, 0.002
LARGER, BESIDE, GAP = 0.8, 4, 0.05
Draw = Callable[[np.random.Generator, float, int], tuple[Floats, Floats]]
"""How much worse the challenger is, and how many come, to log evidence after each look, of R and of
P."""


def of_journal(rng: np.random.Generator, runs: int) -> Part:
    part = Part(f"Revenue, Brier losses, gaps: looked at after each {LOOK} ({runs} runs)")
    part.row("", "false rollback", "wrong advance", "found", "of", "after", width=16)
    for name, draw, n, fine, edge, worse in CASES:
        false = np.mean([draw(rng, fine, n)[0].max() >= LOG_LIMIT for _ in range(runs)])
        wrong = np.mean([draw(rng, edge, n)[1].max() >= LOG_LIMIT for _ in range(runs)])
        paths = [draw(rng, worse, n)[0] >= LOG_LIMIT for _ in range(runs)]
        needed = [(int(one.argmax()) + 1) * LOOK if one.any() else np.inf for one in paths]
        found = np.isfinite(needed).mean()
        part.row(
            name, f"{false:.1%}", f"{wrong:.1%}", f"{found:.0%}", requests(n),
            requests(float(np.median(needed))), width=16,
        )  # fmt: skip
        most = at_most(ALPHA, runs)
        part.goal(false <= most, f"{name}: {false:.1%} false rollbacks")
        part.goal(wrong <= most, f"{name}: {wrong:.1%} wrong advances")
        part.goal(found >= 0.95, f"{name}: found in {found:.0%}")
    return part


def _path(wealth: Callable[[slice], Floats], n: int) -> Floats:
    """Log evidence after each look, of log-wealth that is added up."""
    gains = [wealth(slice(at, at + LOOK)) for at in range(0, n - LOOK + 1, LOOK)]
    return log_mean(np.cumsum(gains, axis=0))


def _revenue(rng: np.random.Generator, drop: float, n: int) -> tuple[Floats, Floats]:
    """drop: part of the challenger's buyers who do not buy. For a fifth nothing needs fewer than
    27,600 in the mean: ln 20 by the square of the difference over 8 variances. Of 60,000
    87 % are found, of 100,000 98 %."""
    is_b = rng.random(n) < 0.5
    buys = rng.random(n) < np.where(is_b, BUYERS * (1.0 - drop), BUYERS)
    paid = np.minimum(np.exp(SPREAD * (rng.standard_normal(n) - DEAREST)), 1.0)
    loss = 1.0 - buys * paid
    # A mean that is not quite true: any is valid.
    m = 1.0 - BUYERS * 0.06
    delta = 0.05 * BUYERS * _MEAN_PAID
    wealth = eprocess.residual_wealth
    return (
        _path(lambda at: wealth(is_b[at], loss[at], 0.5, m, 0.0, +1), n),
        _path(lambda at: wealth(is_b[at], loss[at], 0.5, m, delta, -1), n),
    )


_MEAN_PAID = float(
    np.minimum(
        np.exp(SPREAD * (np.random.default_rng(1).standard_normal(1_000_000) - DEAREST)), 1.0
    ).mean()
)


def _brier(rng: np.random.Generator, excess: float, n: int) -> tuple[Floats, Floats]:
    """excess: of the challenger's mean loss. What is true follows the probabilities."""
    p = rng.beta(8, 8, n)
    truth = rng.random(n) < p
    losses = [
        (np.clip(p + spread * rng.standard_normal(n), 0.0, 1.0) - truth) ** 2
        for spread in (NOISE, np.sqrt(NOISE**2 + excess))
    ]
    difference = losses[1] - losses[0]
    wealth = eprocess.paired_wealth
    return (
        _path(lambda at: wealth(difference[at], 0.0, +1), n),
        _path(lambda at: wealth(difference[at], BRIER_MARGIN, -1), n),
    )


def _fairness(rng: np.random.Generator, gap: float, n: int) -> tuple[Floats, Floats]:
    """gap: how much more often the larger group is chosen. Both signs are bet on; to advance each
    must be excluded."""
    large = rng.random(n) < LARGER
    selected = (rng.random(n) < np.where(large, 0.5, 0.5 - gap)).astype(float)
    many, few, last = blocks_of(large, ~large, BESIDE)
    gaps = selected[many].mean(axis=1) - selected[few]
    looks = [last <= at for at in range(LOOK, n + 1, LOOK)]

    def path(sign: int, direction: int) -> Floats:
        edges = [0, *(int(one.sum()) for one in looks)]
        gains = [
            eprocess.paired_wealth(sign * gaps[begin:end], GAP, direction)
            for begin, end in pairwise(edges)
        ]
        return log_mean(np.cumsum(gains, axis=0))

    worse = log_mean(np.stack([path(sign, +1) for sign in SIGNS], axis=1))
    return worse, np.min([path(sign, -1) for sign in SIGNS], axis=0)


CASES: tuple[tuple[str, Draw, int, float, float, float], ...] = (
    ("revenue, a fifth fewer buyers", _revenue, 100_000, 0.0, 0.05, 0.2),
    ("Brier in pairs, 0.0187 worse", _brier, 10_000, 0.0, BRIER_MARGIN, 0.0187),
    ("fairness, gap 15 of 5 points", _fairness, 30_000, GAP, GAP, 0.15),
)
"""(name, how it is drawn, how many come, what is tolerated, what must be excluded, what must be
found)."""
