"""Versions with their labels in another order answer alike on every protocol."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from doorstep.core.contract import Contract
from doorstep.core.manifest import Lineage, Manifest, NativeForm
from doorstep.core.plan import ReleasePlan, ServicePlan, VersionPlan
from doorstep.formats.batch import Batch
from doorstep.serve.cells import CellWriter
from doorstep.serve.models import Model
from doorstep.serve.service import Service
from doorstep.serve.version import Version, columns_of
from serve_case import PLAIN, OneSite

ROWS = 12
ROW = {"age": 30, "amount": 900.0}
MANIFEST = Manifest(
    format=1, task="multiclass", label="y", labels=(), positive="", threshold=0.5,
    contract=Contract(inputs=PLAIN.inputs),
    native=NativeForm(family="onnx", serialization="onnx", file="f"),
    onnx=None, parity=None, lineage=Lineage(), reads=(), files=(),
)  # fmt: skip


class Scores:
    """`bad` is 0.9 likely, the others share the rest, in the order of its labels."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        rest = 0.1 / (len(labels) - 1)
        self.row = [0.9 if label == "bad" else rest for label in labels]

    def score(self, batch: Batch) -> np.ndarray:
        return np.array([self.row] * batch.rows)


class Released(OneSite):
    """Half of the units are answered by a challenger with `challenger` for labels."""

    challenger: tuple[str, ...] = ("good", "bad")

    def _service(
        self, name: str, contract: Contract, labels: tuple[str, ...], cells: CellWriter
    ) -> Service:
        versions = {}
        for number, mine in ((1, labels), (2, self.challenger)):
            one = VersionPlan(
                number=number, bundle=str(number) * 64, form="onnx", placement="inline"
            )
            manifest = msgspec.structs.replace(MANIFEST, labels=mine)
            model = Model(one, manifest, Scores(mine))
            columns = columns_of(contract, manifest.contract)
            versions[number] = (one, Version(one, manifest, columns, model, None))
        release = ReleasePlan(id="r", challenger=2, state="step", epoch=1, shares={"": 0.5})
        plan = ServicePlan(
            format=1, service=name, contract=contract, champion=1, key="id", release=release,
            versions=tuple(one for one, _ in versions.values()),
        )  # fmt: skip
        made = {number: version for number, (_, version) in versions.items()}
        return Service(plan, made, lease_held=True, declare=self.writer.declare, slot=cells.slot)


class Others(Released):
    challenger = ("bad", "good", "odd")


def tensors() -> bytes:
    ids = [f"u{at}" for at in range(ROWS)]
    return json.dumps({
        "inputs": [
            {"name": "age", "shape": [ROWS], "datatype": "INT64", "data": [30] * ROWS},
            {"name": "amount", "shape": [ROWS], "datatype": "FP64", "data": [900.0] * ROWS},
            {"name": "id", "shape": [ROWS], "datatype": "BYTES", "data": ids},
        ]
    }).encode()  # fmt: skip


def instances() -> bytes:
    rows = [ROW | {"id": f"u{at}"} for at in range(ROWS)]
    return json.dumps({"instances": rows, "signature_name": "probabilities"}).encode()


@pytest.fixture(params=[Released, Others])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> OneSite:
    return request.param(tmp_path, {"loans": (PLAIN, ("bad", "good"))})


def test_v2_gives_probabilities_in_the_services_order_or_none(site: OneSite) -> None:
    found = json.loads(site.ask("POST", "/v2/models/loans/infer", tensors()).body)
    outputs = {one["name"]: one for one in found["outputs"]}
    assert found["model_version"] == "1,2"
    assert outputs["answer"]["data"] == ["bad"] * ROWS
    if isinstance(site, Others):
        assert "probabilities" not in outputs
    else:
        assert outputs["probabilities"]["shape"] == [ROWS, 2]
        assert outputs["probabilities"]["data"] == pytest.approx([0.9, 0.1] * ROWS)


def test_rows_give_probabilities_in_the_services_order_or_none(site: OneSite) -> None:
    answer = site.ask("POST", "/v1/models/loans:predict", instances())
    found = json.loads(answer.body)["predictions"]
    known = [row for row in found if row is not None]
    assert known == [pytest.approx([0.9, 0.1])] * len(known)
    assert 0 < len(known) < ROWS if isinstance(site, Others) else len(known) == ROWS
