"""Events of the ledger as the operations give them."""

from __future__ import annotations

from doorstep.core.merkle import hash_leaf
from doorstep.govern.sentences import sentence_of
from doorstep.govern.surface import EventView
from doorstep.kernel.event import Event, encode_event


def event_view(event: Event) -> EventView:
    about = event.object
    return EventView(
        sequence=event.seq,
        at=event.ts,
        kind=event.kind,
        actor=event.actor.id,
        object=f"{about.type} {about.id}" + (f" {about.ver}" if about.ver else ""),
        sentence=sentence_of(event),
        data=event.data,
        leaf_hash=hash_leaf(encode_event(event)).hex(),
    )
