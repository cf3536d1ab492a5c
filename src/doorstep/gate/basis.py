"""What a gate's verdict rests on, so that a release can tell when it has expired. Pure."""

from __future__ import annotations

import msgspec

from doorstep.core.ids import digest_of
from doorstep.core.servicefile import ServiceFile
from doorstep.gate.surface import GateBasis


def conditions_digest(file: ServiceFile) -> str:
    """Of everything in the file that a gate reads: the conditions, the favourable label, and the
    timeout that stands in where no speed is asked for. Comments and other keys do not change it;
    the contract and the metrics' labels are the version's own and never change."""
    asked = (file.gates, file.model.favourable, file.serve.timeout_s)
    return digest_of(msgspec.json.encode(asked))


def basis_of(file: ServiceFile, champion_digest: str, holdout: str) -> GateBasis:
    """champion_digest: of the bundle that serves, "" if none does. holdout: of the version."""
    return GateBasis(conditions=conditions_digest(file), champion=champion_digest, holdout=holdout)


def what_changed(before: GateBasis, now: GateBasis) -> str:
    """What the verdict no longer rests on, in words; "" if it still holds."""
    changed = [
        said
        for was, since, said in (
            (before.conditions, now.conditions, "the gates of the service file have changed"),
            (before.champion, now.champion, "another champion serves"),
            (before.holdout, now.holdout, "the held-out rows are others"),
        )
        if was != since
    ]
    return " and ".join(changed)
