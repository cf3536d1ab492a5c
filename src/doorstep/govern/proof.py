"""The proof of one prediction, and its check: pure, and without the home that it came from.

the record's bytes -> its leaf -> the root of its block -> the ledger's event of the block
-> the root of the ledger -> a checkpoint -> the signature of the ledger's key
"""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.merkle import hash_leaf, verify_inclusion
from doorstep.core.plural import plural
from doorstep.core.record import Layout, PredictionMeta
from doorstep.govern.surface import PredictionProof, Proof, ProofState
from doorstep.journal.index import ClosedBlock
from doorstep.kernel.event import Event, decode_event
from doorstep.kernel.keys import PublicKey
from doorstep.kernel.note import open_checkpoint

CLOSED = "journal.closed"


class _Wrong(Exception):
    """What does not hold, in one sentence."""


def check_proof(proof: Proof, key: PublicKey) -> PredictionProof:
    """Whether every step holds, up to a checkpoint that `key` signed."""
    said: list[str] = []
    state: ProofState = "proven" if proof.record and not proof.erased else "erased"
    problems = []
    for step in (_check_record, _check_block, _check_ledger):
        try:
            said.append(step(proof, key))
        except _Wrong as wrong:
            problems.append(str(wrong))
        except InputError as error:
            problems.append(error.message)
    return PredictionProof(
        prediction=proof.prediction,
        state="broken" if problems else state,
        said=tuple(said),
        problems=tuple(problems),
        proof=proof,
    )


def _check_record(proof: Proof, _key: PublicKey) -> str:
    if not proof.record:
        return f"its contents are gone; what is left is its leaf {proof.leaf[:16]}"
    try:
        record = base64.b64decode(proof.record, validate=True)
    except (ValueError, binascii.Error):
        raise _Wrong("the record is not base64") from None
    if hash_leaf(record).hex() != proof.leaf:
        raise _Wrong(
            f"the record of {proof.prediction} was changed: it hashes to another leaf than "
            f"{proof.leaf[:16]}"
        )
    if (found := _id_in(record, proof.layout)) != proof.prediction:
        raise _Wrong(f"the record is that of {found}, not of {proof.prediction}")
    closed = "; nothing opens its sealed fields any more" if proof.erased else ""
    return f"the stored record hashes to its leaf {proof.leaf[:16]}{closed}"


def _id_in(record: bytes, layout: Layout | None) -> str:
    """The prediction id that the bytes of a record say. Raises: _Wrong."""
    if layout is None or record[:33] != b"p" + bytes.fromhex(layout.digest):
        raise _Wrong("the record does not belong to the layout that comes with it")
    end = len(record) - 8 * len(layout.numbers)
    try:
        meta = msgspec.msgpack.decode(record[33:end], type=PredictionMeta)
        return f"{UUID(bytes=meta.request)}.{meta.row}"
    except (msgspec.MsgspecError, ValueError):
        raise _Wrong("the record cannot be read") from None


def _check_block(proof: Proof, _key: PublicKey) -> str:
    event = _event_of(proof)
    try:
        closed = msgspec.convert(event.data, ClosedBlock)
    except msgspec.ValidationError as error:
        raise _Wrong(f"event {event.seq} does not say what a closed block is: {error}") from None
    if event.kind != CLOSED or event.object.id != f"{closed.node}/{closed.block}":
        raise _Wrong(f"event {event.seq} is {event.kind} of {event.object.id}, no closed block")
    root, leaf, path = (_bytes(closed.record_root), _bytes(proof.leaf), _hashes(proof.path))
    promised = closed.rows + closed.outcomes
    if promised != proof.records or not verify_inclusion(
        proof.ordinal, proof.records, leaf, path, root
    ):
        raise _Wrong(
            f"block {closed.block} does not hold this leaf as record {proof.ordinal} of "
            f"{proof.records}: its leaves were changed, moved or removed, or it is of another block"
        )
    where = f"record {proof.ordinal + 1:,} of {promised:,} of block {closed.node}/{closed.block}"
    return f"the leaf is {where}, root {closed.record_root[:16]}"


def _check_ledger(proof: Proof, key: PublicKey) -> str:
    event, checkpoint = _event_of(proof), open_checkpoint(proof.checkpoint, key)
    leaf = hash_leaf(proof.event.encode())
    path = _hashes(proof.event_path)
    if not verify_inclusion(event.seq, checkpoint.size, leaf, path, checkpoint.root):
        raise _Wrong(
            f"event {event.seq} is not in the ledger of {checkpoint.size} events that was signed"
        )
    return (
        f"the root is in event {event.seq} of the ledger, which {key.name} signed at "
        f"{plural(checkpoint.size, 'event')}"
    )


def _event_of(proof: Proof) -> Event:
    return decode_event(proof.event.encode())


def _hashes(texts: tuple[str, ...]) -> list[bytes]:
    return [_bytes(one) for one in texts]


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _Wrong(f"{text[:32]!r} is not a hash") from None
