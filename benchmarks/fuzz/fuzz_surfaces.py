"""The surfaces of a data port: what each is sent, and what its answers and refusals look like."""

from __future__ import annotations

import copy
import itertools
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fuzz_values import HOSTILE, Maker, dump

SERVICE, PLAIN = "loans", "plain"
"""One with fields of all types and labels; one of numbers only, and a value."""
PREDICT_ROUTE, HEALTH_ROUTE = "/aip/predict", "/aip/health"
_TYPES: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"}, "float": {"type": "number"}, "bool": {"type": "boolean"},
    "time": {"type": "integer", "minimum": 0, "maximum": 2**50}, "category": {"type": "string"},
    "text": {"type": "string"},
}  # fmt: skip
_V2 = {"int": "INT64", "float": "FP64", "bool": "BOOL", "time": "INT64"}
_DATATYPES = ("BOOL", "INT8", "UINT64", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", "x")
SHAPES = ([], [0], [2**40, 2**40], [-1], [1, 1, 1], [2**31, 2**53 + 1])
CELLS = ("1e999", '"', "a\x00b", "9" * 5000, "=1", "é", "1_0", "x" * 200_000)
_PACK = {"INT64": "q", "FP64": "d", "BOOL": "?"}


def an_object(required: Sequence[str], **known: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": known, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


TEXT, WHOLE, REAL, ANY = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {}
LIST = {"type": "array"}
NATIVE_ERROR = an_object(["error"], error=an_object(
    ["code", "message"], code=TEXT, message=TEXT, hint=TEXT, request_id=TEXT))  # fmt: skip
SENTENCE = an_object(["error"], error=TEXT)
_PREDICTION = an_object(
    ["id", "answer", "warnings"], id=TEXT, answer={"type": ["string", "number", "null"]},
    warnings={"type": "array", "items": TEXT}, value=REAL, version=WHOLE,
    probabilities={"type": "object", "additionalProperties": REAL}, cached={"const": True},
)  # fmt: skip
_OUTPUT = an_object(
    ["name", "shape", "datatype"], name=TEXT, shape={"type": "array", "items": WHOLE},
    datatype={"enum": ["BYTES", "FP64"]}, data=LIST, parameters=an_object(
        ["binary_data_size"], binary_data_size=WHOLE),
)  # fmt: skip
# No output: a constant answered, which has no probabilities, and only those were asked for.
V2_ANSWER = an_object(
    ["model_name", "model_version", "outputs"], model_name=TEXT, model_version=TEXT, id=TEXT,
    parameters={"type": "object", "additionalProperties": {"type": ["string", "number",
    "boolean"]}},
    outputs={"type": "array", "items": _OUTPUT},
)  # fmt: skip


class Body(NamedTuple):
    data: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


class Surface(NamedTuple):
    """paths: by method; `{s}` and `{v}` are a service and a version. make: a valid value for JSON,
    or a whole body. answer: schema of a JSON answer of 200."""

    name: str
    method: str
    paths: tuple[str, ...]
    reads: tuple[str, ...]
    make: Callable[[Maker], Any]
    answer: Mapping[str, Any]
    error: Mapping[str, Any]


class Contract:
    """Schemas of rows, from what the node publishes of its service."""

    def __init__(self, published: Mapping[str, Any]) -> None:
        self.inputs: list[dict[str, Any]] = published["inputs"]
        self.context: list[dict[str, Any]] = published.get("context", [])
        self.row = self._schema(self.inputs)
        self.about = self._schema(self.context)
        self.names = [one["name"] for one in self.inputs]
        self.numbers = [one["name"] for one in self.inputs if one["type"] == "float"]
        self.rows = {"type": "array", "items": self.row, "minItems": 1, "maxItems": 3}

    @staticmethod
    def _schema(fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        known = {}
        for one in fields:
            known[one["name"]] = dict(_TYPES[one["type"]])
            bounds = {"minimum": one.get("range_min"), "maximum": one.get("range_max")}
            known[one["name"]] |= {key: value for key, value in bounds.items() if value is not None}
            if one.get("values"):
                known[one["name"]] = {"enum": list(one["values"])}
        return an_object([one["name"] for one in fields if one.get("required", True)], **known)

    def lists(self, maker: Maker) -> list[list[Any]]:
        """Rows as lists in contract order; what is left out of a row is null."""
        return [[row.get(name) for name in self.names] for row in maker.valid(self.rows)]

    # -- bodies

    def native(self, maker: Maker) -> Any:
        if maker.random.random() < 0.3:
            return maker.valid(self.row)
        rows = maker.valid(self.rows)
        keys = [maker.random.choice((f"k{at}", at)) for at in range(len(rows))]
        found = {"rows": rows, "context": maker.valid(self.about), "keys": keys}
        return {
            key: one for key, one in found.items() if key == "rows" or maker.random.random() < 0.5
        }

    def outcomes(self, maker: Maker) -> Any:
        at = {"enum": [1, "2026-01-01T00:00:00Z", None, "0001-01-01T00:00:00+23:59"]}
        one = an_object(["key", "label"], key=TEXT, label={"enum": ["bad", "good"]}, at=at)
        return {"outcomes": maker.valid({"type": "array", "items": one, "minItems": 1})}

    def v2(self, maker: Maker) -> dict[str, Any]:
        rows = maker.valid(self.rows)
        about = [maker.valid(self.about)] * len(rows)
        inputs = []
        for field, values in [
            *((one, rows) for one in self.inputs),
            *((one, about) for one in self.context),
        ]:
            data = [one.get(field["name"]) for one in values]
            if None in data:
                continue
            kind = _V2.get(field["type"], "BYTES")
            shape = [len(rows)] if maker.random.random() < 0.7 else [len(rows), 1]
            inputs.append({"name": field["name"], "shape": shape, "datatype": kind, "data": data})
        if len(self.numbers) == len(self.names) and maker.random.random() < 0.5:
            inputs = [self._matrix(rows)]
        found: dict[str, Any] = {"inputs": inputs, "id": "é1", "parameters": {"customer": "c"}}
        if maker.random.random() < 0.5:
            found["outputs"] = [{"name": "value"}]
            if len(self.numbers) != len(self.names):
                found["outputs"] = [{"name": "answer"}, {"name": "probabilities"}]
        if maker.random.random() < 0.2 and inputs:
            maker.random.choice(inputs)["datatype"] = maker.random.choice(_DATATYPES)
        return found

    def _matrix(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        data = [row[name] for row in rows for name in self.names]
        shape = [len(rows), len(self.names)]
        return {"name": "input", "shape": shape, "datatype": "FP64", "data": data}

    def v2_binary(self, maker: Maker) -> Body:
        """Raw tensors after the JSON, with one lie in half of the bodies."""
        random, found, raws = maker.random, self.v2(maker), []
        for one in found["inputs"]:
            if one["datatype"] in (*_PACK, "BYTES") and random.random() < 0.8:
                raws.append(_raw(one.pop("data"), one["datatype"]))
                one["parameters"] = {"binary_data_size": len(raws[-1])}
        found["parameters"]["binary_data_output"] = random.random() < 0.7
        lies = [one for one in found["inputs"] if "parameters" in one]
        if lies and random.random() < 0.3:
            random.choice(lies)["parameters"]["binary_data_size"] = copy.deepcopy(
                random.choice(HOSTILE)
            )
        if lies and random.random() < 0.2:
            random.choice(lies)["shape"] = random.choice(SHAPES)
        if random.random() < 0.1:
            found = maker.nearly(found)
        head, raw = dump(found).encode(), b"".join(raws)
        if random.random() < 0.2:
            raw = maker.damaged(raw)
        size: Any = len(head)
        if random.random() < 0.2:
            size = random.choice(
                (0, size - 1, size + 1, len(raw) + size + 1, 10**12, -1, "1e3", "", "٣")
            )
        return Body(head + raw, (
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", str(size)),
        ))  # fmt: skip

    def instances(self, maker: Maker) -> Any:
        rows = self.lists(maker) if maker.random.random() < 0.5 else maker.valid(self.rows)
        return {"instances": rows}

    def v1(self, maker: Maker) -> Any:
        found = self.instances(maker)
        if maker.random.random() < 0.4:
            found = {"inputs": self.columns(maker)}
        if maker.random.random() < 0.4:
            found["signature_name"] = maker.random.choice(("serving_default", "probabilities"))
        return found

    def columns(self, maker: Maker) -> dict[str, list[Any]]:
        return dict(zip(self.names, zip(*self.lists(maker), strict=True), strict=True))  # type: ignore[arg-type]

    def mlflow(self, maker: Maker) -> Any:
        split = {"columns": self.names, "index": [0], "data": self.lists(maker)}
        form, value = maker.random.choice((
            ("dataframe_split", split), ("dataframe_records", maker.valid(self.rows)),
            ("instances", self.lists(maker)), ("inputs", self.columns(maker)),
        ))  # fmt: skip
        found = {form: value}
        if maker.random.random() < 0.4:
            found["params"] = {"predict_method": "predict_proba"}
        return found

    def sagemaker(self, maker: Maker) -> Body:
        """CSV or JSON lines."""
        random, rows = maker.random, self.lists(maker)
        if random.random() < 0.5:
            lines = [dump(maker.nearly(one) if random.random() < 0.2 else one) for one in rows]
            media = "application/jsonlines"
        else:
            cells = [["" if one is None else str(one) for one in row] for row in rows]
            if random.random() < 0.4:
                cells[0][0] = random.choice(CELLS)
            lines = [
                ",".join(row) for row in ([self.names] if random.random() < 0.5 else []) + cells
            ]
            media = "text/csv"
        accept = random.choice((media, "application/json", "text/csv", "*/*", "image/png"))
        data = random.choice(("\n", "\r\n")).join(lines).encode()
        if random.random() < 0.2:
            data = maker.damaged(data)
        return Body(data, (("content-type", media), ("accept", accept)))

    def vertex(self, maker: Maker) -> Any:
        parameters = {"predict_method": "predict_proba"} if maker.random.random() < 0.4 else {}
        return self.instances(maker) | {"parameters": parameters}

    def torchserve(self, maker: Maker) -> Any:
        rows = maker.valid(self.rows)
        return maker.random.choice((rows[0], rows, {"data": rows}, {"instances": rows}))

    def azure(self, maker: Maker) -> Any:
        frame = {"columns": self.names, "index": [0], "data": self.lists(maker)}
        return maker.random.choice((
            {"input_data": frame}, {"data": maker.valid(self.rows)},
            {"input_data": maker.valid(self.rows)},
            {"input_data": frame, "params": {"predict_method": "predict_proba"}},
        ))  # fmt: skip


def _raw(values: Sequence[Any], kind: str) -> bytes:
    if kind != "BYTES":
        try:
            return struct.pack(f"<{len(values)}{_PACK[kind]}", *values)
        except struct.error:
            return b"\x00" * 8
    encoded = [str(one).encode() for one in values]
    return b"".join(
        itertools.chain.from_iterable((struct.pack("<I", len(one)), one) for one in encoded)
    )


def surfaces_of(contract: Contract) -> tuple[Surface, ...]:
    service = "/v1/services/{s}"
    v2 = ("/v2/models/{s}", "/v2/models/{s}/versions/{v}")
    v1 = ("/v1/models/{s}", "/v1/models/{s}/versions/{v}", "/v1/models/{s}/labels/{v}")
    native_answer = an_object(
        ["service", "version", "request_id", "predictions", "fallback"], service=TEXT,
        version=WHOLE, request_id=TEXT, fallback={"type": ["string", "null"]},
        predictions={"type": "array", "items": _PREDICTION, "minItems": 1},
    )  # fmt: skip
    listed = {"oneOf": [an_object([one], **{one: LIST}) for one in ("predictions", "outputs")]}
    mlflow_error = an_object(["error_code", "message"], error_code=TEXT, message=TEXT)
    torch_error = an_object(["code", "type", "message"], code=WHOLE, type=TEXT, message=TEXT)
    vertex_answer = an_object(
        ["predictions", "deployedModelId", "model", "modelVersionId", "metadata"], model=TEXT,
        predictions=LIST, deployedModelId=TEXT, modelVersionId=TEXT, metadata={"type": "object"},
    )  # fmt: skip
    shared = ("/ping", "/health", "/version", "/execution-parameters")
    infer = tuple(f"{one}/infer" for one in v2)
    return (
        Surface("native", "POST", (f"{service}/predict", f"{service}/rehearse"),
                ("/healthz", "/v1/services", service), contract.native, native_answer,
                NATIVE_ERROR),
        Surface("outcomes", "POST", (f"{service}/outcomes",), (service,), contract.outcomes,
                an_object(["recorded"], recorded=WHOLE), NATIVE_ERROR),
        Surface("V2 JSON", "POST", infer, ("/v2", "/v2/health/ready", *v2, f"{v2[1]}/ready"),
                contract.v2, V2_ANSWER, SENTENCE),
        Surface("V2 binary", "POST", infer, ("/v2",), contract.v2_binary, V2_ANSWER, SENTENCE),
        Surface("V1, TF", "POST", tuple(f"{one}:predict" for one in v1),
                ("/v1/models", *v1, f"{v1[0]}/metadata"), contract.v1, listed, SENTENCE),
        Surface("MLflow", "POST", ("/invocations",), shared, contract.mlflow, listed, mlflow_error),
        Surface("SageMaker", "POST", ("/invocations",), shared, contract.sagemaker, listed,
        mlflow_error),
        Surface("Vertex", "POST", (PREDICT_ROUTE,), (HEALTH_ROUTE,), contract.vertex,
        vertex_answer, SENTENCE),
        Surface("TorchServe", "POST", ("/predictions/{s}", "/predictions/{s}/{v}"),
        ("/predictions/{s}",),
                contract.torchserve, ANY, torch_error),
        Surface("Azure ML", "POST", ("/score",), ("/",), contract.azure, LIST, SENTENCE),
    )  # fmt: skip


def split_binary(headers: Mapping[str, str], body: bytes) -> bytes:
    """The JSON of a binary answer of V2. Raises: ValueError where its sizes do not add up."""
    size = int(headers["inference-header-content-length"])
    outputs = json.loads(body[:size])["outputs"]
    raw = sum(one.get("parameters", {}).get("binary_data_size", 0) for one in outputs)
    if size + raw != len(body):
        raise ValueError(f"{size} bytes of JSON and {raw} of tensors are not {len(body)}")
    return body[:size]
