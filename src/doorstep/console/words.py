"""Values as a person would say them: times, rates, odds, ids. Pure; nothing here knows HTML.

None, NaN and infinity are never shown as a number: they are "no data".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from doorstep.core.instant import SECOND_US, Instant

NO_DATA = "no data"
TEXT_MAX = 300
"""Characters of one value from outside that a page shows; a page stays small whatever it is fed."""
JSON_MAX = 2000
_MILLION_LOG = math.log(1e6)
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

_STEP = re.compile(r"(\('[^']*', (\w+)\(|[()\[\]])")
"""A step, `('name', Class(`, or a bracket."""
PIPELINE_DEPTH = 2


def is_known(value: float | None) -> bool:
    """Whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 10 min`, `3 d 4 h`: the two largest units, the second only if short.

    Negative durations are shown by their size; less than a second is `0 s`, no number is `no data`.
    """
    if not math.isfinite(seconds):
        return NO_DATA
    left = abs(int(seconds))
    for place, (unit, size) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            if whole < 10 and place < 2 and (second := rest // _UNITS[place + 1][1]):
                return f"{whole} {unit} {second} {_UNITS[place + 1][0]}"
            return f"{whole} {unit}"
    return "0 s"


def ago(at: Instant | None, now: Instant) -> str:
    """`just now`, `12 min ago`, `in 3 h`; "never" if there is no instant."""
    if not at:
        return "never"
    seconds = (now - at) / SECOND_US
    if abs(seconds) < 1:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(seconds)}"


def exact(at: Instant | None) -> str:
    """`2026-11-22 14:02:03 UTC`; an instant outside of what a calendar holds is its number."""
    if not at:
        return "never"
    try:
        return datetime.fromtimestamp(at / SECOND_US, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(at)


def iso(at: Instant) -> str:
    """For `datetime` attributes: `2026-11-22T14:02:03Z`."""
    return exact(at).replace(" UTC", "Z").replace(" ", "T")


def count(value: float | None) -> str:
    """`12,345`."""
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else NO_DATA


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits without an exponent where one can be avoided: 0.781, 1,240."""
    if value is None or not math.isfinite(value):
        return NO_DATA
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 15 or size < -6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def fixed(value: float | None, decimals: int) -> str:
    """As many decimals in every row of a column."""
    return f"{value:,.{decimals}f}" if value is not None and math.isfinite(value) else NO_DATA


def decimals(values: Iterable[float]) -> int:
    """How many decimals give the largest of `values` three digits or so: 0 to 8."""
    top = max((abs(one) for one in values if math.isfinite(one)), default=0.0)
    return min(8, max(0, 2 - math.floor(math.log10(top)))) if top > 0 else 0


def plain(value: float | None) -> str:
    """A number that a person wrote, as it was written: `50`, `0.75`."""
    return f"{value:,.10g}" if value is not None and math.isfinite(value) else NO_DATA


def rate(value: float | None) -> str:
    """A share 0..1 in percent: `0 %`, `0.42 %`, `12.5 %`, `100 %`."""
    percent = math.nan if value is None else value * 100
    if not math.isfinite(percent):
        return NO_DATA
    if percent == 0 or percent == 100:
        return f"{percent:.0f} %"
    if abs(percent) < 0.01:
        return "under 0.01 %" if percent > 0 else f"{percent:.2g} %"
    text = f"{percent:.2f}" if abs(percent) < 10 else f"{percent:.1f}"
    return f"{text.rstrip('0').rstrip('.')} %"


def odds(log_e: float) -> str:
    """Evidence as odds against chance: `2,900 to 1`. Below even odds there is none yet."""
    if not math.isfinite(log_e):
        return "certain" if log_e > 0 else "none yet"
    if log_e < math.log(1.05):
        return "none yet"
    if log_e > _MILLION_LOG:
        return "over 1,000,000 to 1"
    size = math.exp(log_e)
    return f"{size:,.0f} to 1" if size >= 10 else f"{size:.1f} to 1"


def ratio(value: float | None) -> str:
    """A factor: `1.1×`, `24×`."""
    if value is None or not math.isfinite(value):
        return NO_DATA
    text = f"{value:.0f}" if value >= 20 else f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{text}×"


def points(value: float | None) -> str:
    """A difference of shares: `+0.4 pt`, `0`."""
    if value is None or not math.isfinite(value):
        return NO_DATA
    shown = value * 100
    return (f"{shown:+.0f} pt" if abs(shown) >= 10 else f"{shown:+.2g} pt") if value else "0"


def short(text: str) -> str:
    """An id by its two ends. The end of a uuid7 tells two of one moment apart; its start does not.

    A UUID keeps its last ten characters, a digest its first twelve, a short id is kept whole.
    """
    if len(text) <= 16:
        return text
    if len(text) == 64 and text.isalnum():
        return text[:12]
    return f"{text[:4]}…{text[-10:]}"


def clip(text: str, limit: int = TEXT_MAX) -> str:
    """`text`, or its start and how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def model(estimator: str) -> str:
    """`LogisticRegression` of a scikit-learn representation: a pipeline's last step says what it
    is. Other text as it is."""
    found, depth = estimator.partition("(")[0], 0
    if found != "Pipeline":
        return found
    for sign, step in _STEP.findall(estimator):
        if step and depth == PIPELINE_DEPTH:
            found = step
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign[:1], 0)
        depth += 1 if step else 0
    return found


def value(given: Any) -> str:
    """One value of a row as it was sent: `missing` for null, numbers without noise digits."""
    if given is None:
        return "missing"
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int):
        return str(given) if abs(given) < 10**20 else f"{float(given):.6g}"
    if isinstance(given, float):
        return f"{given:.6g}" if math.isfinite(given) else NO_DATA
    return clip(given if isinstance(given, str) else json.dumps(_jsonable(given)))


def as_json(given: Any) -> str:
    """Indented JSON for a reader, at most JSON_MAX characters."""
    return clip(json.dumps(_jsonable(given), indent=2, ensure_ascii=False), JSON_MAX)


def _jsonable(given: Any) -> Any:
    """JSON has no NaN and no infinity: they are null."""
    if isinstance(given, dict):
        return {str(key): _jsonable(one) for key, one in given.items()}
    if isinstance(given, (list, tuple)):
        return [_jsonable(one) for one in given]
    if isinstance(given, float):
        return given if math.isfinite(given) else None
    return given if given is None or isinstance(given, (str, int, bool)) else str(given)


def size(size_bytes: float) -> str:
    """`812 B`, `4.2 kB`, `1.3 MB` (powers of 1,000)."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def sentence(text: str) -> str:
    """Text that begins as a sentence does."""
    return text[:1].upper() + text[1:]


def unsigned(reason: str, by: str) -> str:
    """A person's reason without their name before it, where the name stands beside."""
    return reason.removeprefix(f"{by}: ")
