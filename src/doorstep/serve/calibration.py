"""How fast this machine is, in a unit that holds elsewhere: CPU time of a fixed piece of work."""

from __future__ import annotations

import os
import platform
import time
from typing import Annotated

import msgspec
import numpy as np

REPEATS = 5
NUMBERS = 100_000


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """cpu_ms: of one core for the work, the best of a few times. Ratios of it compare machines."""

    cpu_ms: Annotated[float, msgspec.Meta(gt=0)]
    cores: int
    python: str
    machine: str


def calibrate() -> Calibration:
    """Takes well under a second. Nothing in it uses more than one thread."""
    return Calibration(
        cpu_ms=min(_work_ms() for _ in range(REPEATS)),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        machine=platform.machine(),
    )


def _work_ms() -> float:
    """Half bytecode, half numpy, as a request is: parsing and deciding, then arithmetic."""
    began_s = time.thread_time()
    counted: dict[int, int] = {}
    for number in range(NUMBERS):
        counted[number & 1023] = counted.get(number & 1023, 0) + number
    values = np.sin(np.arange(NUMBERS, dtype=np.float64))
    for _ in range(4):
        values = np.sort(np.exp(-values * values))[::-1].copy()
    return 1000 * (time.thread_time() - began_s)
