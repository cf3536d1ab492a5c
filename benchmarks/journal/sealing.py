"""What sealed fields cost a prediction: CPU microseconds with 0, 1 and 3 of them.

    python benchmarks/journal/sealing.py

A record of 30 numbers and four texts is masked, sealed and put into a block, and the block is
handed to the system, in groups of 1 and 32; then it is compacted, with a subject for each
prediction and with a hundred subjects. CPU is user and system time of the process; the best of
the rounds.
"""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

from doorstep.core.contract import Contract, Field
from doorstep.core.ids import new_id
from doorstep.core.record import PredictionMeta, layout_of
from doorstep.journal.compactor import Compactor
from doorstep.journal.masking import Mask, Row
from doorstep.journal.sealing import Sealer
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.keys import create_keys, load_personal_key

NUMBERS = 30
ROWS = 20_000
ROUNDS = 3
DATA = struct.pack(f"<{NUMBERS}d", *(float(at) * 1.25 for at in range(NUMBERS)))
SCORE = struct.pack("<d", 0.25)
TEXTS = ("Anna Example", "anna@example.org", "12 Example Street", "car")


def contract(sealed: int) -> Contract:
    numbers = tuple(Field(name=f"n{at}", type="float") for at in range(NUMBERS))
    texts = tuple(
        Field(name=f"t{at}", type="text", personal="seal" if at < sealed else "no")
        for at in range(len(TEXTS))
    )
    return Contract(inputs=numbers + texts)


def write(home: Path, sealed: int, group: int, subjects: int) -> float:
    """Microseconds of CPU for each prediction."""
    shape = contract(sealed)
    sealer = Sealer(load_personal_key(home / "keys").sealing)
    mask = Mask("loans", shape, ("", "", "person"), sealer)
    writer = BlockWriter(home / "journal", node="n", boot=new_id().hex[:8], slot="s")
    number = writer.declare(layout_of("loans", shape, ("value",)))
    requests = [new_id().bytes for _ in range(ROWS)]
    began = time.process_time()
    for start in range(0, ROWS, group):
        rows, pieces, session = [], [], sealer.session()
        for at in range(start, min(start + group, ROWS)):
            data, texts, request = DATA, TEXTS, requests[at]
            if mask.is_needed:
                came = Row(0, data, texts, f"s{at % subjects}", "", "")
                data, texts = mask.inputs(data, texts)
            if mask.seals:
                texts = (*texts, mask.sealed(session, request, came))
            pieces += (data, SCORE)
            rows.append(
                PredictionMeta(
                    request, 0, time.time_ns() // 1000, 1, 1, 0, 0, "", 0, 0.0, "", "k1", "u1",
                    812, (), (*texts, None),
                )
            )  # fmt: skip
        writer.predictions(number, rows, b"".join(pieces), session.seal if mask.seals else b"")
        writer.flush()
    took_s = time.process_time() - began
    writer.close()
    return took_s / ROWS * 1e6


def compact(home: Path) -> float:
    began = time.process_time()
    with Compactor(home, "n", no_profiles) as compactor:
        compactor.run_once()
    return (time.process_time() - began) / ROWS * 1e6


def measure(sealed: int, group: int, subjects: int) -> tuple[float, float, float]:
    """(writing, compacting, bytes in Parquet) for each prediction."""
    with tempfile.TemporaryDirectory() as temp:
        home = Path(temp)
        (home / "keys").mkdir()
        create_keys(home / "keys", "bench")
        wrote = write(home, sealed, group, subjects)
        compacted = compact(home)
        files = (home / "journal" / "n" / "compacted").glob("*.parquet")
        size = sum(one.stat().st_size for one in files)
    return wrote, compacted, size / ROWS


def main() -> None:
    print("sealed fields  group  subjects  write us  compact us  bytes")
    cases = [(0, 1, 1), (0, 32, 1), (1, 1, 100), (3, 1, 100), (3, 32, 100), (3, 32, ROWS)]
    for sealed, group, subjects in cases:
        found = [measure(sealed, group, subjects) for _ in range(ROUNDS)]
        best = [min(one) for one in zip(*found, strict=True)]
        print(
            f"{sealed:>13}  {group:>5}  {subjects:>8,}  {best[0]:>8.1f}  {best[1]:>10.1f}  "
            f"{best[2]:>5.0f}"
        )


if __name__ == "__main__":
    main()
