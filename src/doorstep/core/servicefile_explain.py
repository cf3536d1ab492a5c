"""The whole service file as it will be used: each value, where it comes from, and why.

Also what a person should know before relying on it: keys that this release reads and checks but
does not act on yet, and advice that is not an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from doorstep.core.filekeys import join
from doorstep.core.filereaders import Group, ListOf, MapOf
from doorstep.core.servicefile import ROOT, ServiceFile
from doorstep.core.yamlwrite import flow

NOT_SET = "not set"
_MEASURED = frozenset(
    {
        *("auc", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1"),
        *("f1_macro", "brier", "log_loss", "mae", "rmse", "r2", "selection_rate_ratio"),
    }
)
"""What the gates of this release measure; anything else stays inconclusive."""
_NOT_YET = "is read and checked, and nothing acts on it in this release yet"

Thin: TypeAlias = tuple[str, str]


class ExplainedKey(msgspec.Struct, frozen=True):
    """One key. value: as the file would say it, or "not set". why: the reason for a default, ""
    where the file says it."""

    path: str
    value: str
    source: Literal["file", "default"]
    why: str


class DeclaredKey(msgspec.Struct, frozen=True):
    """One key that a file may have. path: `[]` is each of a list, NAME each of a mapping. why: the
    reason for its default, "" if it has to be written."""

    path: str
    expected: str
    about: str
    why: str


def declared(reader: Group = ROOT, path: str = "") -> Iterator[DeclaredKey]:
    """Every key of a section, those of each of its lists as well."""
    for key in reader.keys.values():
        where = join(path, key.name)
        yield DeclaredKey(where, key.reads.expected, key.about, key.why)
        match key.reads:
            case Group() as inner:
                yield from declared(inner, where)
            case ListOf(item=Group() as inner):
                yield from declared(inner, f"{where}[]")
            case MapOf(item=Group() as inner):
                yield from declared(inner, f"{where}.NAME")
            case _:
                pass


def section_of(path: str) -> str:
    """`release` of `release.guardrails[0].margins`."""
    return path.partition(".")[0].partition("[")[0]


def explain(service_file: ServiceFile) -> list[ExplainedKey]:
    """Every key with its value, in the order of the documentation."""
    written = frozenset(service_file.written)
    return list(_explained(ROOT, service_file, "", written))


def values_of(service_file: ServiceFile) -> dict[str, str]:
    """Every key that has a value, as the file would say it; lists are whole. Two files that mean
    the same have the same."""
    rows = _explained(ROOT, service_file, "", frozenset())
    return {row.path: row.value for row in rows if row.value != NOT_SET}


def _explained(
    reader: Group, value: Any, path: str, written: frozenset[str]
) -> Iterator[ExplainedKey]:
    for key in reader.keys.values():
        one = getattr(value, key.field)
        where = join(path, key.name)
        yield from _rows(key.reads, one, where, key.why, written)


def _rows(
    reader: Any, value: Any, path: str, why: str, written: frozenset[str]
) -> Iterator[ExplainedKey]:
    match reader:
        case Group() if isinstance(value, reader.type):
            yield from _explained(reader, value, path, written)
        case MapOf(item=Group()) if value:
            for name, one in value.items():
                yield from _rows(reader.item, one, join(path, name), why, written)
        case ListOf(item=Group()) if value and path in written:
            for index, one in enumerate(value):
                rows = _rows(reader.item, one, f"{path}[{index}]", why, written)
                yield from (row for row in rows if row.value != NOT_SET)
        case _:
            yield _row(reader, value, path, why, written)


def _row(reader: Any, value: Any, path: str, why: str, written: frozenset[str]) -> ExplainedKey:
    is_written = path in written
    text = NOT_SET if value is None or value == "" else flow(reader.show(value))
    return ExplainedKey(path, text, "file" if is_written else "default", "" if is_written else why)


def thin_keys(service_file: ServiceFile) -> list[Thin]:
    """(path, sentence) for what the file asks and this release does not do yet; by path order."""
    found = [*_thin_model(service_file), *_thin_release(service_file), *_thin_people(service_file)]
    return [(path, f"{path} {sentence}") for path, sentence in found]


def _thin_model(file: ServiceFile) -> Iterator[Thin]:
    if file.regimes:
        yield "regimes", _NOT_YET
    if file.model.task in {"ranking", "text-classification"}:
        yield "model.task", f"{file.model.task} cannot be registered in this release yet"
    if file.model.trainer:
        yield "model.trainer", _NOT_YET
    for key in ("python", "requirements", "predict"):
        if getattr(file.runtime, key):
            yield f"runtime.{key}", "is checked; models run in Doorstep's own Python for now"
    if file.runtime.device != "cpu":
        yield "runtime.device", "gpu is not used in this release yet; it scores on the cpu"
    data = file.data
    for key, source in (("train", data.train), ("holdout", data.holdout)) if data else ():
        if source and source.sql:
            yield f"data.{key}.sql", "queries cannot be read yet; export it to a file and use path"
    yield from _thin_gates(file)


def _thin_gates(file: ServiceFile) -> Iterator[Thin]:
    gates = file.gates
    slices = tuple(one.check for one in gates.slices)
    for key, asked in (
        ("quality", gates.quality),
        ("slices", slices),
        ("fairness", gates.fairness),
    ):
        for index, one in enumerate(asked):
            if one.left not in _MEASURED:
                yield f"gates.{key}[{index}]", f"is inconclusive; {one.left} is not measured yet"


def _thin_release(file: ServiceFile) -> Iterator[Thin]:
    for index, alert in enumerate(file.alert):
        if alert.to != "console":
            yield f"alert[{index}].to", f"{alert.to} is not sent to yet; see the console"


def _thin_people(file: ServiceFile) -> Iterator[Thin]:
    if file.explain.immutable:
        yield "explain.immutable", _NOT_YET
    if file.review:
        yield "review", "is checked; predictions are not yet put before a person"
    if file.retrain.when:
        yield "retrain.when", "is checked; training is not yet started by itself"


def advice(service_file: ServiceFile) -> list[Thin]:
    """(path, sentence) for what is allowed and probably not meant."""
    found: list[Thin] = []
    fields = [*service_file.contract.inputs.values(), *service_file.contract.context.values()]
    if "doorstep" not in service_file.written:
        found.append(("doorstep", "write doorstep: 1, so that a later Doorstep knows the format"))
    if service_file.ids.subject and not service_file.ids.unit:
        found.append(
            ("ids.unit", "is not set, so one person may meet both versions during a release")
        )
    if service_file.gates.fairness and fields and not any(one.protected for one in fields):
        found.append(("gates.fairness", "is inconclusive: no field of the contract is protected"))
    if service_file.gates.fairness and not service_file.model.favourable:
        found.append(
            (
                "gates.fairness",
                "is inconclusive: write model.favourable, the label that a person would rather get",
            )
        )
    return found
