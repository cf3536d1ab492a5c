"""`doorstep ledger verify --prediction ID`, and the check of a proof that was written to a file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import typer

from doorstep.cli.options import connect
from doorstep.cli.output import done, emit, fail, progress
from doorstep.core.errors import InputError, NotFoundError
from doorstep.govern.surface import PredictionProof, Proof

PROOF_BYTES_MAX = 64 * 1024 * 1024


def prove_or_check(
    prediction: str,
    proof: Path | None,
    key: Path | None,
    json: bool,
    url: str | None,
    home: str | None,
) -> None:
    """Exit code 0: proven (also: erased, as far as its leaf goes). 1: broken, or not yet sealed."""
    if prediction:
        with connect(url, home) as client, progress(waiting="proving"):
            found = client.prove(prediction)
        if proof is not None and found.proof is not None:
            _write(proof, found.proof)
    else:
        assert proof is not None
        found = check_file(proof, key)
    _say(found)
    emit(found, "\n".join((*found.said, *found.problems)), as_json=json)
    raise typer.Exit(0 if found.state in ("proven", "erased") else 1)


def check_file(path: Path, key: Path | None) -> PredictionProof:
    """What a proof in a file shows. key: None is the one in the file, whose holder is not known.

    Raises: NotFoundError (`no-file`), InputError (`bad-proof`, `bad-key`).
    """
    from doorstep.govern.proof import check_proof
    from doorstep.kernel.keys import load_public_key, parse_public_key

    if not path.is_file():
        raise NotFoundError(
            "no-file",
            f"there is no file {path}",
            f"doorstep ledger verify --prediction ID --proof {path}",
        )
    if path.stat().st_size > PROOF_BYTES_MAX:
        raise InputError("bad-proof", f"{path} is too long to be a proof")
    try:
        proof = msgspec.json.decode(path.read_bytes(), type=Proof)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError("bad-proof", f"{path} is not a proof: {error}") from None
    found = check_proof(proof, load_public_key(key) if key else parse_public_key(proof.key))
    if key is not None:
        return found
    unpinned = (
        "note: the key came with the proof; give the one that you have from the ledger's keeper "
        "with --key, or anybody could have signed it"
    )
    return msgspec.structs.replace(found, said=(*found.said, unpinned))


def _write(path: Path, proof: Proof) -> None:
    if not path.parent.is_dir():
        raise NotFoundError(
            "no-folder", f"there is no folder {path.parent}", f"mkdir {path.parent}"
        )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(proof)) + b"\n")
    done(f"{path}: the proof, with the record's inputs and answer; keep it as you keep those")


def _say(found: PredictionProof) -> None:
    match found.state:
        case "proven":
            done(f"prediction {found.prediction} is as it was when the ledger sealed it")
        case "erased":
            done(
                f"prediction {found.prediction} is as it was when the ledger sealed it; nothing "
                "opens its personal fields any more"
            )
        case "not-sealed":
            fail(f"prediction {found.prediction} is not sealed in this ledger")
        case "broken":
            fail(f"prediction {found.prediction} is not proven")
