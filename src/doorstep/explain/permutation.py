"""Why a version answers so: Shapley contributions of the raw contract columns to one score.

The players are the input columns of the contract, as callers send them; a column that the model
turns into ten stays one player. `v(S)` is the mean score over the background rows when the columns
of S are taken from the explained row and the others from the background (Strumbelj and Kononenko
2014, interventional values). A contribution is the column's mean gain over orderings of the
columns: all of them when there are few columns, else seeded permutations, each with its reverse
(antithetic; Mitchell et al. 2022), which halves the work for the same spread. Gains along one
ordering telescope, so contributions and base add up to the score by construction; it is asserted
on every answer all the same.

Only `Scorer.score` is asked for, so it works for any version in the form that serves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, RefusedError
from doorstep.formats.batch import Batch

EXACT_COLUMNS_MAX = 8
"""2^8 coalitions; from nine columns on, ten permutation pairs ask for fewer."""
PAIRS = 10
BACKGROUND_ROWS_MAX = 100
"""Measured elsewhere: 1,000 references did not agree better between samples than 100."""
SCORED_ROWS_MAX = 2_000_000
CHUNK_ROWS = 8192
ADDITIVITY_RELATIVE_MAX = 1e-6

ScoreColumn = Callable[[Batch], NDArray[np.float64]]
"""Batch -> float64 [rows]: the score of the explained label, or the predicted value."""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """value: what the row had (None if missing). contribution: in the score's own unit.
    error: standard error over the permutations, 0 when exact."""

    column: str
    value: float | str | None
    contribution: float
    error: float = 0.0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """score = base + sum of contributions. base: mean score of the background.

    contributions: largest first by size, ties in contract order. near_tie: the order of some
    neighbours among the first four could change with another seed (gap below twice its error).
    """

    score: float
    base: float
    contributions: tuple[Contribution, ...]
    is_exact: bool
    near_tie: bool
    pairs: int
    background_rows: int
    scored_rows: int
    seed: int


def explain_row(
    score: ScoreColumn,
    contract: Contract,
    row: Batch,
    background: Batch,
    *,
    seed: int = 0,
    pairs: int = PAIRS,
) -> Explanation:
    """Contributions of every input column to the score of `row` (one row).

    A column that equals the whole background, or that the model does not use, gets exactly 0.
    Raises: InputError (`no-background`, `bad-row`); RefusedError (`too-wide`, `bad-score`,
    `not-additive`).
    """
    if row.rows != 1:
        raise InputError("bad-row", f"an explanation is of one row, not of {row.rows}")
    background = _thin(background, seed)
    game = _Game(score, contract, row, background)
    width = len(contract.inputs)
    is_exact = width <= EXACT_COLUMNS_MAX
    if is_exact:
        gains, errors = _exact(game, width)
    else:
        pairs = _affordable(pairs, width, background.rows)
        gains, errors = _sampled(game, width, pairs, seed)
    contributions = _sorted(contract, row, gains, errors)
    answer = Explanation(
        score=game.value(game.everyone),
        base=game.value(0),
        contributions=contributions,
        is_exact=is_exact,
        near_tie=_near_tie(contributions),
        pairs=0 if is_exact else pairs,
        background_rows=background.rows,
        scored_rows=game.scored_rows,
        seed=seed,
    )
    check_additive(answer)
    return answer


def check_additive(answer: Explanation) -> None:
    """Base and contributions give the score to 1e-6 relative, or RefusedError `not-additive`."""
    total = math.fsum([answer.base, *(one.contribution for one in answer.contributions)])
    scale = max(1.0, abs(answer.score), abs(answer.base))
    if not abs(total - answer.score) <= ADDITIVITY_RELATIVE_MAX * scale:
        raise RefusedError(
            "not-additive",
            f"base and contributions give {total:.9g}, the score is {answer.score:.9g}: "
            "the model does not answer the same row the same way twice",
            "doorstep gate SERVICE@N",
        )


def take(batch: Batch, positions: Sequence[int]) -> Batch:
    """The rows at these positions, as a batch of their own."""
    chosen = list(positions)
    return Batch(batch.numbers[chosen], [[column[i] for i in chosen] for column in batch.texts])


class _Game:
    """v(S), each coalition scored once. A coalition is a bit mask over the contract's inputs."""

    def __init__(
        self, score: ScoreColumn, contract: Contract, row: Batch, background: Batch
    ) -> None:
        self._score = score
        self._row = row
        self._background = background
        positions = range(len(contract.inputs))
        self._numbers = [i for i in positions if contract.inputs[i].is_number]
        self._texts = [i for i in positions if not contract.inputs[i].is_number]
        self._values: dict[int, float] = {}
        self._same = _same_as_background(self._numbers, self._texts, row, background)
        self.everyone = (1 << len(contract.inputs)) - 1
        self.scored_rows = 1
        self._values[self._key(self.everyone)] = float(self._finite(score(row))[0])

    def value(self, coalition: int) -> float:
        return self._values[self._key(coalition)]

    def ask(self, coalitions: Iterator[int]) -> None:
        """Score those coalitions that are not known yet, in batches of bounded size."""
        missing = list(dict.fromkeys(self._key(one) for one in coalitions))
        missing = [one for one in missing if one not in self._values]
        step = max(1, CHUNK_ROWS // self._background.rows)
        for start in range(0, len(missing), step):
            chunk = missing[start : start + step]
            scores = self._finite(self._score(self._batch(chunk)))
            self.scored_rows += len(scores)
            means = scores.reshape(len(chunk), self._background.rows).mean(axis=1)
            self._values.update(zip(chunk, means.tolist(), strict=True))

    def _key(self, coalition: int) -> int:
        """Columns that equal the whole background do not change a coalition."""
        return coalition & ~self._same

    def _batch(self, coalitions: list[int]) -> Batch:
        background, row = self._background, self._row
        flags = [[bool(one >> i & 1) for i in self._numbers] for one in coalitions]
        members = np.array(flags, dtype=bool).reshape(len(coalitions), 1, len(self._numbers))
        mixed = np.where(members, row.numbers[None], background.numbers[None])
        texts: list[list[str | None]] = []
        for position, column in enumerate(self._texts):
            own = row.texts[position] * background.rows
            parts = [own if one >> column & 1 else background.texts[position] for one in coalitions]
            texts.append([value for part in parts for value in part])
        rows = len(coalitions) * background.rows
        return Batch(np.ascontiguousarray(mixed.reshape(rows, len(self._numbers))), texts)

    def _finite(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.asarray(scores, dtype=np.float64).ravel()
        if not np.isfinite(values).all():
            raise RefusedError("bad-score", "the version gave a score that is not a finite number")
        return values


def _same_as_background(numbers: list[int], texts: list[int], row: Batch, background: Batch) -> int:
    same = 0
    for position, column in enumerate(numbers):
        own = row.numbers[0, position]
        others = background.numbers[:, position]
        if (np.isnan(own) and np.isnan(others).all()) or (others == own).all():
            same |= 1 << column
    for position, column in enumerate(texts):
        if all(value == row.texts[position][0] for value in background.texts[position]):
            same |= 1 << column
    return same


def _exact(game: _Game, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shapley's formula over all 2^width coalitions."""
    game.ask(iter(range(1 << width)))
    weights = [
        math.factorial(size) * math.factorial(width - size - 1) / math.factorial(width)
        for size in range(width)
    ]
    gains = np.zeros(width)
    for coalition in range(1 << width):
        without = game.value(coalition)
        for column in range(width):
            if not coalition >> column & 1:
                gain = game.value(coalition | 1 << column) - without
                gains[column] += weights[coalition.bit_count()] * gain
    return gains, np.zeros(width)


def _sampled(
    game: _Game, width: int, pairs: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean gain over `pairs` permutations and their reverses; error over the pairs."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(width).tolist() for _ in range(pairs)]
    walks = [order[::-1] if back else order for order in orders for back in (False, True)]
    game.ask(coalition for walk in walks for coalition in _prefixes(walk))
    gains = np.zeros((len(walks), width))
    for number, walk in enumerate(walks):
        values = [game.value(coalition) for coalition in _prefixes(walk)]
        gains[number, walk] = np.diff(values)
    by_pair = gains.reshape(pairs, 2, width).mean(axis=1)
    if pairs == 1:
        return by_pair[0], np.abs(gains[0] - gains[1]) / 2
    return by_pair.mean(axis=0), by_pair.std(axis=0, ddof=1) / math.sqrt(pairs)


def _prefixes(walk: list[int]) -> Iterator[int]:
    coalition = 0
    yield coalition
    for column in walk:
        coalition |= 1 << column
        yield coalition


def _thin(background: Batch, seed: int) -> Batch:
    if background.rows == 0:
        raise InputError(
            "no-background",
            "there is no background row to compare with",
            "name data.train in the service file, then: doorstep register MODEL",
        )
    if background.rows <= BACKGROUND_ROWS_MAX:
        return background
    generator = np.random.default_rng(seed)
    chosen = generator.choice(background.rows, BACKGROUND_ROWS_MAX, replace=False)
    return take(background, np.sort(chosen).tolist())


def _affordable(pairs: int, width: int, background_rows: int) -> int:
    one_pair = 2 * width * background_rows
    if one_pair > SCORED_ROWS_MAX:
        raise RefusedError(
            "too-wide",
            f"{width} columns against {background_rows} background rows would score "
            f"{one_pair:,} rows; at most {SCORED_ROWS_MAX:,}",
        )
    return max(1, min(pairs, SCORED_ROWS_MAX // one_pair))


def _sorted(
    contract: Contract, row: Batch, gains: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[Contribution, ...]:
    found = [
        Contribution(column=field.name, value=value, contribution=float(gain), error=float(error))
        for field, value, gain, error in zip(
            contract.inputs, row_values(contract, row), gains, errors, strict=True
        )
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.contribution)))


def row_values(contract: Contract, row: Batch) -> list[float | str | None]:
    """The values of a one-row batch in the order of the contract's inputs; NaN becomes None."""
    numbers, texts = iter(row.numbers[0].tolist()), iter(row.texts)
    values: list[float | str | None] = []
    for field in contract.inputs:
        if field.is_number:
            number = next(numbers)
            values.append(None if math.isnan(number) else number)
        else:
            values.append(next(texts)[0])
    return values


def _near_tie(contributions: tuple[Contribution, ...]) -> bool:
    first = contributions[:5]
    for one, other in itertools.pairwise(first):
        gap = abs(one.contribution) - abs(other.contribution)
        if gap < 2.0 * math.hypot(one.error, other.error):
            return True
    return False
