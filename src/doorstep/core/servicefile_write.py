"""The service file that `doorstep init` writes: small, commented, and read back to what it says."""

from __future__ import annotations

from typing import Any

import msgspec

from doorstep.core.filereaders import Group
from doorstep.core.servicefile_types import FieldSpec, Task
from doorstep.core.yamlwrite import comment, flow, word

SUGGESTED: dict[Task | None, str] = {
    None: "auc >= 0.75",
    "binary": "auc >= 0.75",
    "multiclass": "f1_macro >= 0.75",
    "text-classification": "f1_macro >= 0.75",
    "regression": "r2 >= 0.5",
    "ranking": "r2 >= 0.5",
}
"""By task, in metrics that gates measure for it, and whose numbers mean the same on any data."""
_FIELD = Group(FieldSpec)


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` found out. holdout_note: how the held-out rows were chosen, one sentence.
    quality, speed: conditions as text. Paths are relative to the file."""

    service: str
    label: str
    holdout: str
    train: str = ""
    task: Task | None = None
    positive: str = ""
    purpose: str = ""
    key: str = ""
    inputs: dict[str, FieldSpec] = {}
    context: dict[str, FieldSpec] = {}
    quality: tuple[str, ...] = ()
    speed: tuple[str, ...] = ()
    holdout_note: str = ""


def render_service_file(draft: Draft) -> str:
    """A commented `doorstep.yaml` that parses to the values of `draft`.

    Raises: InputError (`bad-text`) for text that no file can hold.
    """
    lines = [
        "# What this service promises. Every key with its default and why: "
        "doorstep check --explain",
        "doorstep: 1                # format of this file",
        f"service: {word(draft.service)}",
    ]
    if draft.purpose:
        lines.append(f"purpose: {word(draft.purpose)}")
    lines.append(
        "risk: low                  # low | medium | high: sets approval, review, retention"
    )
    lines += _ids_lines(draft) + _model_lines(draft) + _data_lines(draft)
    lines += _contract_lines(draft) + _gate_lines(draft)
    return "\n".join(lines) + "\n"


def _ids_lines(draft: Draft) -> list[str]:
    if draft.key:
        return [f"ids: {flow({'key': draft.key})}"]
    return ["# ids: {key: case_id}      # the field that later joins outcomes to predictions"]


def _model_lines(draft: Draft) -> list[str]:
    lines = ["", "model:", f"  label: {word(draft.label)}"]
    if draft.task:
        lines.append(f"  task: {draft.task}")
    if draft.positive:
        lines.append(f"  positive: {word(draft.positive)}")
    return lines


def _data_lines(draft: Draft) -> list[str]:
    lines = ["", "data:"]
    if draft.train:
        lines.append(f"  train: {flow({'path': draft.train})}")
    lines.append(f"  # {comment(draft.holdout_note) or 'gates run on these rows only'}")
    lines.append(f"  holdout: {flow({'path': draft.holdout})}")
    return lines


def _contract_lines(draft: Draft) -> list[str]:
    if not draft.inputs and not draft.context:
        return []
    lines = [
        "",
        "contract:                  # what a caller may send",
        "  enforce: warn            # ranges and unseen values warn; write reject to refuse them",
    ]
    for name, fields in (("inputs", draft.inputs), ("context", draft.context)):
        if fields:
            lines.append(f"  {name}:")
            lines += [f"    {word(key)}: {flow(_shown(field))}" for key, field in fields.items()]
    return lines


def _shown(field: FieldSpec) -> Any:
    return _FIELD.show(field)


def _gate_lines(draft: Draft) -> list[str]:
    lines = ["", "gates:                     # what a version must pass before a release"]
    if not draft.quality and not draft.speed:
        example = f'# gates: {{quality: ["{SUGGESTED[draft.task]}"]}}'
        return [*lines[:1], f"{example}   # must hold on held-out rows"]
    for name, conditions in (("quality", draft.quality), ("speed", draft.speed)):
        if conditions:
            lines.append(f"  {name}: [{', '.join(word(one) for one in conditions)}]")
    return lines
