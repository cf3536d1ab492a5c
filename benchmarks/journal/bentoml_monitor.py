"""BentoML's monitor log, run by a Python that has BentoML: CPU us and wall us per prediction.

    python bentoml_monitor.py ROWS      in a folder of its own, where it puts its log

Each line is handed to the operating system and none is synced: the promise of `default`.
"""

import sys
import time

import bentoml

ROWS = int(sys.argv[1])
VALUES = {f"n{at}": at * 1.25 for at in range(30)}


def log() -> None:
    with bentoml.monitor("loans") as monitor:
        for name, value in VALUES.items():
            monitor.log(value, name=name, role="feature", data_type="numerical")
        monitor.log("car", name="purpose", role="feature", data_type="categorical")
        monitor.log("yes", name="answer", role="prediction", data_type="categorical")


log()
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(ROWS):
    log()
scale = 1e6 / ROWS
print((time.process_time() - cpu) * scale, (time.perf_counter() - wall) * scale)
