"""The operation that says why a prediction is what it is."""

from __future__ import annotations

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.operation import operation
from doorstep.explain.child import Explained, ExplainRequest
from doorstep.explain.surface import Contribution, ExplainPrediction, Explanation
from doorstep.explain.words import REASONS
from doorstep.journal.operations import find_row
from doorstep.kernel.app import App
from doorstep.kernel.child import run_child
from doorstep.register.store import VersionRow, get_version
from doorstep.register.views import read_manifest

TIMEOUT_S = 60.0


@operation("prediction.explain", permission="prediction:read", effect="read")
def explain_prediction(app: App, asked: ExplainPrediction) -> Explanation:
    """Say what each value of a row added to its score."""
    row = find_row(app, asked.prediction)
    version = _answering(app, row["service"], int(row["version"]), asked.prediction)
    manifest = read_manifest(app, version.digest)
    names = {field.name for field in manifest.contract.inputs}
    inputs = {name: row.get(f"in.{name}") for name in names}
    if all(value is None for value in inputs.values()):
        raise RefusedError(
            "inputs-not-kept",
            f"the journal did not keep the inputs of {asked.prediction}",
            "serve.record: full keeps them",
        )
    request = ExplainRequest(
        folder=str(app.home.bundles / version.digest),
        digest=version.digest,
        row=inputs,
        trusted=version.trusted,
        reasons=REASONS,
    )
    answer = run_child("doorstep.explain.child", msgspec.json.encode(request), timeout_s=TIMEOUT_S)
    return _view(asked.prediction, version, row.get("out.answer"), answer)


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
    prediction: str, version: VersionRow, answer: str | None, explained: bytes
) -> Explanation:
    found = msgspec.json.decode(explained, type=Explained)
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
