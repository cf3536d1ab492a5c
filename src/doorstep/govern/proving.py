"""The operation that proves one prediction: from its record to the ledger's signature."""

from __future__ import annotations

import base64

import msgspec

from doorstep.core.errors import NotFoundError
from doorstep.core.ids import parse_prediction_id
from doorstep.core.operation import operation
from doorstep.govern.operations import LEDGER_KEY, signer_of
from doorstep.govern.proof import CLOSED, check_proof
from doorstep.govern.surface import PredictionProof, Proof, ProvePrediction
from doorstep.journal.index import ClosedBlock
from doorstep.journal.proof import InBlock, Place, Stored, ask_path, ask_stored
from doorstep.kernel.app import App
from doorstep.kernel.checkpoints import sign_checkpoint
from doorstep.kernel.event import Event, Object
from doorstep.kernel.keys import PublicKey, load_public_key
from doorstep.kernel.ledger import Filter, prove_inclusion, read_events, read_leaf
from doorstep.kernel.note import open_checkpoint

SEALED_LATER = "the ledger learns of a block when it is closed and compacted, within two minutes"


@operation("prediction.prove", permission="ledger:read", effect="read")
def prove_prediction(app: App, asked: ProvePrediction) -> PredictionProof:
    """Prove one prediction: its record, its leaf, its block, the ledger's event, the signature."""
    wanted = "{}.{}".format(*parse_prediction_id(asked.prediction))
    stored = ask_stored(app.home.path, wanted)
    if stored is None:
        raise NotFoundError(
            "no-prediction",
            f"there is no prediction {wanted}",
            "doorstep journal list SERVICE",
        )
    event = _closed_event(app, stored)
    if not stored.is_listed or event is None:
        return _not_sealed(wanted, stored)
    closed = msgspec.convert(event.data, ClosedBlock)
    place = Place(
        node=stored.node,
        block=stored.block,
        ordinal=stored.ordinal,
        records=closed.rows + closed.outcomes,
        first=closed.first,
        last=closed.last,
    )
    within = ask_path(app.home.path, place)
    problems = _problems(stored, within, event)
    checked = check_proof(_proof(app, wanted, stored, place, within, event), _key(app))
    if not problems:
        return checked
    both = tuple(problems) + checked.problems
    return msgspec.structs.replace(checked, state="broken", problems=both, proof=None)


def _closed_event(app: App, stored: Stored) -> Event | None:
    about = Object("block", f"{stored.node}/{stored.block}")
    with app.database.reading() as connection:
        found = read_events(connection, Filter(kind=CLOSED, object=about), 1)
    return found[0] if found else None


def _not_sealed(prediction: str, stored: Stored) -> PredictionProof:
    where = "is compacted, its event is to come" if stored.is_listed else "is still open"
    said = f"block {stored.node}/{stored.block} {where}: not yet sealed; {SEALED_LATER}"
    if "." in stored.node:  # no node is called so: `journal.away.Place.of`
        said = f"block {stored.node}/{stored.block} is of another home, whose ledger sealed it"
    return PredictionProof(prediction=prediction, state="not-sealed", said=(said,))


def _problems(stored: Stored, within: InBlock, event: Event) -> list[str]:
    problems = list(within.problems)
    if within.closed is not None and within.closed != event.data:
        problems.append(
            f"the index says of block {stored.block} what event {event.seq} of the ledger does not"
        )
    if stored.layout is None and not stored.is_erased:
        problems.append(
            "the layout of the record is not kept beside it, or was changed: its leaf cannot be "
            "computed again"
        )
    return problems


def _proof(
    app: App, prediction: str, stored: Stored, place: Place, within: InBlock, event: Event
) -> Proof:
    signed = sign_checkpoint(app.database, signer_of(app), app.clock.now())
    key = _key(app)
    size = open_checkpoint(signed.note, key).size
    with app.database.reading() as connection:
        event_path = prove_inclusion(connection, event.seq, size)
        line = read_leaf(connection, event.seq)
    return Proof(
        prediction=prediction,
        layout=stored.layout,
        record=base64.b64encode(stored.record).decode(),
        leaf=stored.leaf,
        ordinal=place.ordinal,
        records=place.records,
        path=within.path,
        event=line.decode(),
        event_path=tuple(one.hex() for one in event_path),
        checkpoint=signed.note,
        key=key.to_text(),
        erased=stored.is_erased,
    )


def _key(app: App) -> PublicKey:
    return load_public_key((app.home.keys / LEDGER_KEY).with_suffix(".pub"))
