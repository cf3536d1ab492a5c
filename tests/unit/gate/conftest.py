"""Versions and files that the tests of gates share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gate_cases import rows_of, subject_of

from doorstep.formats.table import write_parquet
from doorstep.gate.subject import Subject


@pytest.fixture
def make_subject(tmp_path: Path) -> Callable[..., Subject]:
    return lambda scorer, profile=None, name="loans@2", seen=None: subject_of(
        tmp_path / name, scorer, profile, name, seen
    )


@pytest.fixture
def holdout(tmp_path: Path) -> str:
    path = tmp_path / "holdout.parquet"
    write_parquet(rows_of(2, 800), path)
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    path = tmp_path / "train.parquet"
    write_parquet(rows_of(1, 2000), path)
    return str(path)
