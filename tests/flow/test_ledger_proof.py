"""One prediction proven through a real server, and its proof checked where there is no home."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from doorstep.core.ids import new_id
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal.compactor import Compactor
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter
from doorstep.testing.installation import RunningInstallation
from doorstep.testing.processes import wait_for

NODE = "elsewhere"


def verify(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "doorstep.cli.main", "ledger", "verify", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def answered(home: Path) -> tuple[BlockWriter, str]:
    """A block of a node that is not this server's, and the id of its one prediction."""
    layout = Layout(
        format=1,
        service="loans",
        numbers=(Column("in.age", "int"),),
        texts=(Column("out.answer", "text"),),
    )
    request = new_id()
    row = PredictionMeta(
        request=request.bytes, row=0, at=1_700_000_000_000_000, version=1, assigned=1, status=0,
        kind=0, release="", epoch=0, share=0.0, segment="", key="k", unit="u", latency_us=1,
        warnings=(), texts=("yes",),
    )  # fmt: skip
    writer = BlockWriter(home / "journal", node=NODE, boot="b", slot=request.hex[:8])
    writer.predictions(writer.declare(layout), [row], struct.pack("<d", 41.0))
    writer.flush()
    return writer, f"{request}.0"


def test_a_prediction_is_proven_and_its_proof_needs_no_home(
    installation: RunningInstallation, tmp_path: Path
) -> None:
    home, proof, key = installation.home, tmp_path / "proof.json", tmp_path / "ledger.pub"
    shutil.copy(home / "keys" / "ledger.pub", key)
    writer, prediction = answered(home)
    wanted = ("--prediction", prediction, "--proof", str(proof), "--home", str(home))
    code, said = verify(*wanted)
    assert (code, "not yet sealed" in said, proof.exists()) == (1, True, False)
    writer.close()
    with Compactor(home, NODE, no_profiles) as compactor:
        compactor.run_once()
    client = installation.client
    wait_for(lambda: client.prove(prediction).state == "proven" or None, "the block is sealed")
    code, said = verify(*wanted)
    assert code == 0, said
    offline = ("--proof", str(proof), "--home", str(tmp_path / "nothing"))
    code, said = verify(*offline)
    assert (code, "the key came with the proof" in said) == (0, True), said
    code, said = verify(*offline, "--key", str(key))
    assert (code, "the key came" in said) == (0, False), said
    changed = json.loads(proof.read_text()) | {"ordinal": 1}
    proof.write_text(json.dumps(changed))
    code, said = verify(*offline, "--key", str(key))
    assert (code, "does not hold this leaf" in said) == (1, True), said
