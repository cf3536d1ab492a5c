"""What happened, in a sentence a person would say. Kinds without a sentence say their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from doorstep.core.instant import to_text
from doorstep.core.plural import plural
from doorstep.kernel.event import Event

Data = Mapping[str, Any]


def sentence_of(event: Event) -> str:
    """The event in words."""
    say = _SENTENCES.get(event.kind)
    if say is None:
        return f"{event.kind} {event.object.id}".strip()
    return say(event, event.data)


def _applied(event: Event, data: Data) -> str:
    said = "first revision" if event.object.ver == "1" else "nothing that holds here"
    changed = ", ".join(data.get("changed") or ()) or said
    return f"revision {event.object.ver} of the service file of {event.object.id}: {changed}"


def _registered(event: Event, data: Data) -> str:
    vouched = ", vouched for by a person" if data.get("trust") else ""
    return f"{event.object.id} registered: {data.get('form')}{vouched}, {_short(data['digest'])}"


def _gated(event: Event, data: Data) -> str:
    bad = [one["check"] for one in data.get("findings", ()) if one.get("verdict") != "pass"]
    against = f" against {data['champion']}" if data.get("champion") else ""
    return f"gates of {event.object.id}{against}: {data['verdict']}" + (
        f" ({'; '.join(bad[:3])})" if bad else ""
    )


def _started(_: Event, data: Data) -> str:
    against = f" against @{data['champion']}" if data.get("champion") else ", the first version"
    rehearsal = ", a rehearsal" if data.get("rehearsal") else ""
    return f"release of {data['version']} began{against}{rehearsal}"


def _changed(_: Event, data: Data) -> str:
    return f"{data['version']}: {data['from']} to {data['to']}: {data['reason']}"


def _unwatched(_: Event, data: Data) -> str:
    return f"nobody watched for {data['gap_s']:.0f} s: that time does not count for the release"


def _epoch(_: Event, data: Data) -> str:
    return f"{data['version']}: evidence is counted in a new epoch ({data['reason']})"


def _rolled_back(_: Event, data: Data) -> str:
    to, left = data["to"] or "no version", data["from"] or "none"
    return f"{to} serves instead of {left}: {data['why']}"


def _killed(event: Event, data: Data) -> str:
    return f"{event.object.id} may not be asked any more: {data['why']}"


def _revived(event: Event, data: Data) -> str:
    return f"{event.object.id} may be asked again: {data['why']}"


def _found(_: Event, data: Data) -> str:
    return str(data.get("sentence", ""))


def _closed(_: Event, data: Data) -> str:
    return f"journal block closed on {data.get('node')}: {plural(data['rows'], 'record')}"


def _dropped(_: Event, data: Data) -> str:
    first, last = to_text(data["first"])[:10], to_text(data["last"])[:10]
    why = {"age": "they are older than they are kept", "size": "the journal has too many"}
    return (
        f"{plural(data['rows'], 'record')} of {first} to {last} went from {data['node']}: "
        f"{why[data['why']]}"
    )


def _erased(event: Event, data: Data) -> str:
    count = data["predictions"]
    found = "the predictions" if count is None else f"{plural(count, 'prediction')}"
    said = " are still searched for" if count is None else " with sealed fields"
    return (
        f"the person {_short(event.object.id)} was erased by {data['by']}: {found}{said} "
        f"({data['why']})"
    )


def _held(event: Event, data: Data) -> str:
    return f"the person {_short(event.object.id)} is held and cannot be erased: {data['why']}"


def _freed(event: Event, data: Data) -> str:
    return f"the hold of the person {_short(event.object.id)} ended: {data['why']}"


def _opened(event: Event, data: Data) -> str:
    return f"personal fields of {event.object.id} were read: {data['why']}"


def _token_created(event: Event, data: Data) -> str:
    if data.get("scope"):
        return f"{_token(event, data)} made, who may {data['scope']}"
    return f"{_token(event, data)} made for {data.get('service') or 'all services'}"


def _token_revoked(event: Event, data: Data) -> str:
    return f"{_token(event, data)} revoked: {data['why']}"


def _token(event: Event, data: Data) -> str:
    kind = "token of a person" if data.get("scope") else "API key"
    return f"{kind} {event.object.id}" + (f" ({data['name']})" if data.get("name") else "")


def _approved(event: Event, data: Data) -> str:
    return f"{event.object.id} may be released: {data['why']}"


def _withdrawn(event: Event, data: Data) -> str:
    return f"the yes of {data['by']} to {event.object.id} taken back: {data['why']}"


def _revision_approved(event: Event, data: Data) -> str:
    return (
        f"revision {event.object.ver} of the service file of {event.object.id} may ask for less: "
        f"{data['why']}"
    )


def _short(digest: str) -> str:
    return digest[:12]


_SENTENCES: Mapping[str, Callable[[Event, Data], str]] = {
    "service.applied": _applied,
    "service.approved": _revision_approved,
    "service.rolled-back": _rolled_back,
    "version.registered": _registered,
    "version.killed": _killed,
    "version.revived": _revived,
    "version.approved": _approved,
    "version.approval-withdrawn": _withdrawn,
    "gate.decided": _gated,
    "release.started": _started,
    "release.advanced": _changed,
    "release.epoch": _epoch,
    "release.unwatched": _unwatched,
    "release.paused": _changed,
    "release.finished": _changed,
    "release.rolled-back": _changed,
    "release.inconclusive": _changed,
    "finding.opened": _found,
    "finding.escalated": _found,
    "finding.resolved": _found,
    "journal.closed": _closed,
    "journal.dropped": _dropped,
    "subject.erased": _erased,
    "subject.held": _held,
    "subject.freed": _freed,
    "prediction.opened": _opened,
    "token.created": _token_created,
    "token.revoked": _token_revoked,
}
