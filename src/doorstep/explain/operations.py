"""The operation that says why a prediction is what it is."""

from __future__ import annotations

from typing import Any

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.errors import RefusedError
from doorstep.core.operation import operation
from doorstep.core.servicefile import stored_service_file
from doorstep.explain.child import Explained, ExplainRequest
from doorstep.explain.surface import Contribution, ExplainPrediction, Explanation
from doorstep.journal.erased import closed_error, personal_of
from doorstep.journal.operations import find_row
from doorstep.kernel.app import App
from doorstep.kernel.child import run_child
from doorstep.register.store import VersionRow, get_service, get_version
from doorstep.register.views import manifest_of
from doorstep.register.watched import require_model

TIMEOUT_S = 60.0
NAMED_MAX = 5
SCORE_APART_MAX = 1e-4
"""Relative to max(1, |score|): the same row through the same form differs by less than 1e-5."""
REGRESSION = "value"
"""What the journal calls the score of a version without labels."""


@operation("prediction.explain", permission="prediction:read", effect="read")
def explain_prediction(app: App, asked: ExplainPrediction) -> Explanation:
    """Say what each value of a row added to its score."""
    row = find_row(app, asked.prediction)
    version = _answering(app, row["service"], int(row["version"]), asked.prediction)
    require_model(version)
    manifest = manifest_of(app.home.bundles, version.digest)
    reads_personal = any(one.personal != "no" for one in manifest.contract.inputs)
    if reads_personal and personal_of(app, [row])[0] in ("erased", "lost"):
        raise closed_error(app, row)
    inputs = kept_inputs(row, manifest.contract, asked.prediction)
    request = ExplainRequest(
        folder=str(app.home.bundles / version.digest),
        digest=version.digest,
        row=inputs,
        trusted=version.trusted,
        reasons=_reasons(app, version.service),
    )
    answer = run_child("doorstep.explain.child", msgspec.json.encode(request), timeout_s=TIMEOUT_S)
    explained = msgspec.json.decode(answer, type=Explained)
    check_same_row(row, explained, asked.prediction)
    return _view(asked.prediction, version, row.get("out.answer"), explained)


def kept_inputs(row: dict[str, Any], contract: Contract, prediction: str) -> dict[str, Any]:
    """The input fields of a journal record, as the version read them.

    Personal fields are kept as a hash or not at all: what would be explained is another row.
    Raises: RefusedError (`inputs-not-kept`).
    """
    personal = [field.name for field in contract.inputs if field.personal != "no"]
    if personal:
        named = ", ".join(personal[:NAMED_MAX])
        more = f" and {len(personal) - NAMED_MAX} more" if len(personal) > NAMED_MAX else ""
        raise RefusedError(
            "inputs-not-kept",
            f"the journal does not keep {named}{more} of {prediction} as sent: personal",
            "a version that does not read personal fields can be explained",
        )
    inputs = {field.name: row.get(f"in.{field.name}") for field in contract.inputs}
    if all(value is None for value in inputs.values()):
        raise RefusedError(
            "inputs-not-kept",
            f"the journal did not keep the inputs of {prediction}",
            "serve.record: full keeps them",
        )
    return inputs


def check_same_row(row: dict[str, Any], explained: Explained, prediction: str) -> None:
    """The score that is explained is the score that was answered, where that was recorded.

    Raises: RefusedError (`explains-another-row`).
    """
    recorded = row.get(f"out.{explained.of or REGRESSION}")
    if recorded is None:
        return
    score = explained.explanation.score
    if not abs(score - recorded) <= SCORE_APART_MAX * max(1.0, abs(recorded)):
        raise RefusedError(
            "explains-another-row",
            f"{prediction} was answered with the score {recorded:.6g}, and what the journal kept "
            f"of its inputs gives {score:.6g}: the reasons would be those of another row",
            f"doorstep journal show {prediction}",
        )


def _reasons(app: App, service: str) -> int:
    with app.database.reading() as connection:
        text = get_service(connection, service).file
    return stored_service_file(text, app.home.environment).explain.reasons


def _answering(app: App, service: str, number: int, prediction: str) -> VersionRow:
    if number <= 0:
        raise RefusedError(
            "no-version-answered",
            f"no version answered {prediction}: the caller got a constant or an error",
            f"doorstep journal show {prediction}",
        )
    with app.database.reading() as connection:
        return get_version(connection, service, number)


def _view(
    prediction: str, version: VersionRow, answer: str | None, found: Explained
) -> Explanation:
    inner = found.explanation
    words = dict(zip((one.column for one in inner.contributions), found.words, strict=False))
    return Explanation(
        prediction=prediction,
        version=version.name,
        of=found.of,
        answer=answer if answer is not None else inner.score,
        score=inner.score,
        base=inner.base,
        background_rows=inner.background_rows,
        contributions=tuple(
            Contribution(
                column=one.column,
                value=one.value,
                amount=one.contribution,
                words=words.get(one.column, ""),
            )
            for one in inner.contributions
        ),
    )
