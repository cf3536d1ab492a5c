"""What another service answered, made up: last month's rows with scores, versions and outcomes."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DAY_S = 86_400
FILE = """\
service: {service}
ids: {{key: application}}
model: {{label: defaulted, task: binary, positive: "yes"}}
watch: {{prediction: answer, score: p_default, time: answered, version: model}}
monitor: {{drift: {{window: 7d}}}}
"""
HEAD = ("application", "answered", "model", "amount", "age", "purpose", "p_default", "answer",
        "defaulted")  # fmt: skip


def made_rows(
    count: int, *, since_s: float, until_s: float, prefix: str, model: str = "v3",
    amount: float = 1000.0, seed: int = 7,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows in the order of time. amount: the mean of that column."""
    chance = random.Random(seed)
    found = []
    for at in range(count):
        p = chance.random() ** 2
        found.append({
            "application": f"{prefix}{at:05d}",
            "answered": round(since_s + (until_s - since_s) * at / count, 3),
            "model": model,
            "amount": round(chance.gauss(amount, 200.0), 2),
            "age": chance.randint(18, 80),
            "purpose": chance.choice(["car", "education", "repairs"]),
            "p_default": round(p, 4),
            "answer": "yes" if p >= 0.5 else "no",
            "defaulted": "yes" if chance.random() < p else "no",
        })  # fmt: skip
    return found


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weeks_ago(weeks: float) -> float:
    """Seconds since 1970; whole days, so that no row is near the present."""
    return (time.time() // DAY_S) * DAY_S - weeks * 7 * DAY_S
