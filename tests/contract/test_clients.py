"""Clients of other servers, as they are, against one real node."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from doorstep.core.contract import Contract, Field
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int", range_min=18, range_max=100),
        Field(name="amount", type="float"),
        Field(name="owner", type="bool"),
        Field(name="score", type="float", required=False),
        Field(name="purpose", type="category", values=("car", "home")),
    ),
    context=(Field(name="store", type="int", required=False),),
)
FRAME = pd.DataFrame({
    "age": [30, 50, 20], "amount": [12.5, -3.0, 0.0], "owner": [True, False, True],
    "score": [0.25, 0.5, 0.75], "purpose": ["car", "home", "car"],
})  # fmt: skip
ROWS: list[dict[str, Any]] = FRAME.to_dict("records")
LISTS: list[list[Any]] = FRAME.values.tolist()

CODED = {"car": "Y2Fy", "home": "aG9tZQ=="}


class Served:
    """The node under test. labels, shares: what the native protocol says of FRAME, by service."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self.http = httpx.Client(base_url=node.data_url, timeout=60)
        self.labels: dict[str, list[Any]] = {}
        self.shares: dict[str, list[list[float]]] = {}
        for name in ("loans", "digits", "price"):
            found = self.post(f"/v1/services/{name}/predict", {"rows": ROWS}).json()
            said = found["predictions"]
            self.labels[name] = [one["answer"] for one in said]
            self.shares[name] = [list(one.get("probabilities", {}).values()) for one in said]
        self.labels["digits"] = [int(one) for one in self.labels["digits"]]

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.http.post(path, content=content, headers=names)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clients")
    home = TestHome(folder / "home")
    digest = home.bundle(CONTRACT)
    wide = TestHome.contract(40)
    home.publish(
        home.service("loans", {1: digest, 2: home.bundle(CONTRACT, seed=1)}, rows_max=500),
        home.service("digits", {1: home.bundle(CONTRACT, labels=("0", "1"))}),
        home.service("price", {1: home.bundle(CONTRACT, labels=())}),
        home.service("wide", {1: home.bundle(wide)}),
    )
    with RunningNode(home.path, folder / "state") as node:
        node.wait_plan(1)
        yield Served(node)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A node with one service, as a container has it, started by Vertex AI's variables."""
    folder = tmp_path_factory.mktemp("alone")
    home = TestHome(folder / "home")
    home.publish(home.service("loans", {1: home.bundle(CONTRACT)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/7/deployedModels/9:predict")
        patch.setenv("AIP_HEALTH_ROUTE", "/v1/endpoints/7/deployedModels/9")
        node = RunningNode(home.path, folder / "state")
        node.start()
    try:
        node.wait_plan(1)
        found = Served.__new__(Served)
        found.node, found.http = node, httpx.Client(base_url=node.data_url, timeout=60)
        yield found
    finally:
        node.end()


# -- Triton's client


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.node.data_url.removeprefix("http://")) as found:
        yield found


def tensors(*, binary: bool) -> list[triton.InferInput]:
    kinds = {
        "age": "INT32", "amount": "FP32", "owner": "BOOL", "score": "FP16", "purpose": "BYTES"
    }  # fmt: skip
    found = []
    for name, kind in kinds.items():
        values = FRAME[name].to_numpy()
        one = triton.InferInput(name, [len(values)], kind)
        dtype = {"BYTES": object, "INT32": np.int32, "FP32": np.float32, "FP16": np.float16}
        # Triton's own JSON form has no FP16.
        one.set_data_from_numpy(
            values.astype(dtype.get(kind, bool)), binary_data=binary or kind == "FP16"
        )
        found.append(one)
    return found


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tritons_client_gets_the_models_answers(
    served: Served, client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None
) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary_out)
            for name in ("probabilities", "answer")
        ]
    found = client.infer(
        "loans", tensors(binary=binary_in), outputs=outputs, request_id="mine",
        parameters={"store": 3},
    )  # fmt: skip
    np.testing.assert_allclose(found.as_numpy("probabilities"), served.shares["loans"], rtol=1e-9)
    said = [one.decode() if isinstance(one, bytes) else one for one in found.as_numpy("answer")]
    assert said == served.labels["loans"]
    response = found.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == (
        "mine", "loans", "1"
    )  # fmt: skip


def test_tritons_client_asks_for_a_version_and_a_value(
    served: Served, client: triton.InferenceServerClient
) -> None:
    found = client.infer("loans", tensors(binary=True), model_version="2")
    assert found.get_response()["model_version"] == "2"
    found = client.infer("price", tensors(binary=True))
    np.testing.assert_allclose(found.as_numpy("value"), served.labels["price"], rtol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "binary"),
    [(dtype, binary) for dtype in ("FP16", "FP32", "FP64", "INT8", "UINT16", "INT64", "UINT64")
     for binary in (True, False) if binary or dtype != "FP16"],
)  # fmt: skip
def test_a_matrix_of_any_datatype_is_all_number_inputs(
    served: Served, client: triton.InferenceServerClient, dtype: str, binary: bool
) -> None:
    kind = np.dtype(dtype.lower().replace("fp", "float"))
    values = (np.arange(80).reshape(2, 40) % 11).astype(kind)
    one = triton.InferInput("anything", [2, 40], dtype)
    one.set_data_from_numpy(values, binary_data=binary)
    found = client.infer("wide", [one]).as_numpy("probabilities")
    rows = [{f"x{at}": float(value) for at, value in enumerate(row)} for row in values]
    said = served.post("/v1/services/wide/predict", {"rows": rows}).json()["predictions"]
    expected = [list(row["probabilities"].values()) for row in said]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_tritons_client_reads_metadata_and_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("loans") and client.is_model_ready("loans", "2")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata("loans")
    assert found["versions"] == ["1", "2"]
    assert {"name": "purpose", "datatype": "BYTES", "shape": [-1]} in found["inputs"]


def test_tritons_client_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="unknown-service: no service 'nope' here"):
        client.infer("nope", tensors(binary=True))
    one = triton.InferInput("anything", [1, 40], "FP32")
    one.set_data_from_numpy(np.full((1, 40), np.inf, np.float32))
    with pytest.raises(InferenceServerException, match="'x0' is number inf; expected a finite"):
        client.infer("wide", [one])
    with pytest.raises(InferenceServerException, match="ask for 'probabilities'"):
        client.infer(
            "loans", tensors(binary=True),
            outputs=[triton.InferRequestedOutput("answer", class_count=2)],
        )  # fmt: skip


# -- KServe V1 and TensorFlow Serving


@pytest.mark.parametrize(
    "body",
    [
        {"instances": ROWS},
        {"instances": LISTS},
        {"instances": [{**row, "age": [row["age"]], "owner": int(row["owner"])} for row in ROWS]},
        {"instances": [{"features": row} for row in LISTS], "signature_name": "serving_default"},
        {"instances": [{**row, "purpose": {"b64": CODED[row["purpose"]]}} for row in ROWS]},
        {"instances": [{**row, "store": 3} for row in ROWS]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/champion"])
def test_v1_predict_answers_a_label_per_row(served: Served, body: Any, where: str) -> None:
    found = served.post(f"/v1/models/loans{where}:predict", body)
    assert found.json() == {"predictions": served.labels["loans"]}
    assert found.headers["doorstep-version"] == "1"
    assert len(found.headers["doorstep-request-id"]) == 36


@pytest.mark.parametrize(
    "columns", [FRAME.to_dict("list"), {"input": LISTS}, LISTS, FRAME[["age"]].to_dict("list")]
)
def test_columns_are_answered_with_outputs(served: Served, columns: Any) -> None:
    found = served.post("/v1/models/loans:predict", {"inputs": columns})
    if isinstance(columns, dict) and len(columns) == 1 and "age" in columns:
        error = found.json()["error"]
        assert error.startswith(
            "missing-field: row 0: field 'amount' is missing; expected float. Also row 0: "
        )
    else:
        assert found.json() == {"outputs": served.labels["loans"]}


def test_probabilities_labels_that_are_numbers_and_values(served: Served) -> None:
    body = {"instances": LISTS, "signature_name": "probabilities"}
    found = served.post("/v1/models/loans:predict", body).json()["predictions"]
    np.testing.assert_allclose(found, served.shares["loans"], rtol=1e-9)
    for name in ("digits", "price"):
        found = served.post(f"/v1/models/{name}:predict", {"instances": LISTS}).json()
        assert found == {"predictions": served.labels[name]}
    assert set(served.labels["digits"]) <= {0, 1}
    answer = served.post("/v1/models/price:predict", body)
    assert (answer.status_code, "no probabilities" in answer.json()["error"]) == (400, True)


def test_v1_status_and_metadata(served: Served) -> None:
    assert "loans" in served.get("/v1/models").json()["models"]
    found = served.get("/v1/models/loans").json()
    assert (found["name"], found["ready"]) == ("loans", True)
    assert [(one["version"], one["state"]) for one in found["model_version_status"]] == [
        ("1", "AVAILABLE"), ("2", "AVAILABLE")
    ]  # fmt: skip
    one = served.get("/v1/models/loans/labels/champion").json()["model_version_status"]
    assert [state["version"] for state in one] == ["1"]
    found = served.get("/v1/models/loans/versions/2/metadata").json()
    assert found["model_spec"]["version"] == "2"
    inputs = found["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["age"]["dtype"] == "DT_INT64"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/models/nope:predict", {"instances": [1]}, 404, "no service 'nope' here"),
        ("/v1/models/loans/versions/9:predict", {"instances": [1]}, 404, "loans@9"),
        ("/v1/models/loans/labels/challenger:predict", {"instances": [1]}, 404, "challenger"),
        ("/v1/models/loans:predict", {"instances": [1]}, 400, "row 0 is number 1; expected an"),
        ("/v1/models/loans:predict", {"instances": [[1, 2]]}, 400, "row 0 is a list of 2"),
        ("/v1/models/loans:predict", {"instances": []}, 400, "0 rows"),
        ("/v1/models/loans:predict", {"instances": [1] * 501}, 400, "501 rows"),
        ("/v1/models/loans:predict", {"instances": 3}, 400, "expected a list of rows"),
        ("/v1/models/loans:predict", {"instances": LISTS, "inputs": LISTS}, 400, "both of"),
        ("/v1/models/loans:predict", {}, 400, "neither of"),
        ("/v1/models/loans:predict", [1], 400, "neither of"),
        ("/v1/models/loans:predict", b"{", 400, "not JSON"),
        ("/v1/models/loans:predict", {"instances": LISTS, "signature_name": "x"}, 400, "'x'"),
        ("/v1/models/loans:predict", {"instances": [{**ROWS[0], "agee": 1}]}, 400, "mean 'age'"),
        ("/v1/models/loans:predict", {"inputs": {"age": [1], "owner": [1, 2]}}, 400, "list of 2"),
        ("/v1/models/loans:predict", b'{"instances": [[30, 1e999, true, 1, "car"]]}', 400, "inf"),
    ],
)
def test_v1_errors_are_one_sentence(
    served: Served, path: str, body: Any, status: int, said: str
) -> None:
    found = served.post(path, body)
    assert found.status_code == status
    assert said in found.json()["error"]


# -- MLflow and SageMaker

SPLIT = json.loads(FRAME.to_json(orient="split"))
CSV_TEXT = FRAME.to_csv(index=False)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": SPLIT},
        {"dataframe_split": {"data": LISTS}},
        {"dataframe_split": {**SPLIT, "columns": [*SPLIT["columns"], "label", "row"],
                             "data": [[*row, "bad", 7] for row in SPLIT["data"]]}},
        {"dataframe_records": ROWS},
        {"dataframe_records": [{**row, "label": "good"} for row in ROWS], "params": {}},
        {"instances": LISTS},
        {"inputs": FRAME.to_dict("list")},
        {"inputs": LISTS, "params": {"predict_method": "predict"}},
        ROWS,
        LISTS,
    ],
)  # fmt: skip
def test_mlflow_and_sagemaker_json(served: Served, body: Any) -> None:
    found = served.post("/invocations", body, Doorstep_Service="loans")
    assert found.json() == {"predictions": served.labels["loans"]}
    assert found.headers["doorstep-version"] == "1"
    extra = found.headers.get("doorstep-warnings", "")
    assert ("extra:label" in extra) == ("label" in json.dumps(body))


@pytest.mark.parametrize("media", ["text/csv", "application/csv", "text/csv; charset=utf-8"])
@pytest.mark.parametrize(
    "text",
    [
        CSV_TEXT,
        FRAME.to_csv(),
        FRAME.to_csv(index=False, header=False),
        CSV_TEXT.replace("\n", "\r\n"),
        "\ufeff" + CSV_TEXT.replace("True", "1").replace("False", "false") + "\n\n",
    ],
)
def test_csv_with_and_without_names(served: Served, media: str, text: str) -> None:
    headers = {"Content_Type": media, "Doorstep_Service": "loans"}
    found = served.post("/invocations", text.encode(), **headers)
    assert found.json() == {"predictions": served.labels["loans"]}


def test_answers_as_csv_and_lines(served: Served) -> None:
    headers = {"Content_Type": "text/csv", "Doorstep_Service": "loans"}
    found = served.post("/invocations", CSV_TEXT, Accept="text/csv", **headers)
    assert found.text.splitlines() == served.labels["loans"]
    assert found.headers["content-type"] == "text/csv"
    body = {"instances": LISTS, "params": {"predict_method": "predict_proba"}}
    found = served.post("/invocations", body, Accept="text/csv", Doorstep_Service="loans")
    shares = pd.read_csv(io.StringIO(found.text), header=None).to_numpy()
    np.testing.assert_allclose(shares, served.shares["loans"], rtol=1e-9)
    found = served.post("/invocations", body, Doorstep_Service="loans").json()["predictions"]
    np.testing.assert_allclose(found, served.shares["loans"], rtol=1e-9)


@pytest.mark.parametrize("rows", [ROWS, LISTS, [{"features": row} for row in LISTS]])
def test_json_lines_in_and_out(served: Served, rows: list[Any]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    media = "application/jsonlines"
    for name in ("loans", "price"):
        found = served.post(
            "/invocations", lines, Content_Type=media, Accept=media, Doorstep_Service=name
        )
        assert found.headers["content-type"] == media
        said = [json.loads(line) for line in found.text.splitlines()]
        key = "predicted_label" if name == "loans" else "score"
        assert [one[key] for one in said] == served.labels[name]


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"age\n1", {"Content_Type": "text/csv"}, 400, "field 'amount' is missing"),
        (b"abc,1,1,1,car", {"Content_Type": "text/csv"}, 400, "'age' is text 'abc'; expected int"),
        (b",1,1,1,car", {"Content_Type": "text/csv"}, 400, "'age' is null"),
        (b"1,2", {"Content_Type": "text/csv"}, 400, "row 0 is a list of 2; expected a list of 5"),
        (b'"a', {"Content_Type": "text/csv"}, 400, "no CSV"),
        (b"\xff", {"Content_Type": "text/csv"}, 400, "no CSV"),
        (b"", {"Content_Type": "text/csv"}, 400, "0 rows"),
        (b"x", {"Content_Type": "application/x-npy"}, 415, "expected application/json"),
        (b"[[1]]", {"Accept": "application/x-npy"}, 400, "row 0 is a list of 1"),
        (json.dumps(LISTS), {"Accept": "application/x-npy"}, 406, "expected application/json"),
        (b"{}", {}, 400, "has 0 of dataframe_split"),
        (b"3", {}, 400, "is number 3"),
        (b'{"instances": [[1]], "inputs": 3}', {}, 400, "has 2 of"),
        (b'{"dataframe_split": {"columns": ["age", "age"], "data": []}}', {}, 400, "comes twice"),
        (b'{"dataframe_split": {"columns": ["age"], "data": [[1, 2]]}}', {}, 400, "list of 2"),
        (json.dumps({"instances": LISTS, "params": {"predict_method": "x"}}), {}, 400, "'x'"),
        (json.dumps({"instances": LISTS, "params": 3}), {}, 400, "'params' is number 3"),
        (b"[[1]]", {"Doorstep_Service": "nope"}, 404, "no service 'nope' here"),
    ],
)
def test_invocation_errors_have_mlflows_form(
    served: Served, body: Any, headers: dict[str, str], status: int, said: str
) -> None:
    found = served.post("/invocations", body, **{"Doorstep_Service": "loans", **headers})
    assert (found.status_code, found.json()["error_code"]) == (
        status, "RESOURCE_DOES_NOT_EXIST" if status == 404 else "BAD_REQUEST"
    )  # fmt: skip
    assert said in found.json()["message"]


def test_a_path_without_a_service_needs_one_where_there_are_several(served: Served) -> None:
    for path in ("/invocations", "/score"):
        found = served.post(path, {"instances": LISTS})
        assert found.status_code == 400
        assert "Doorstep-Service with one of: digits, loans, price, wide" in found.text


def test_health_and_what_a_platform_asks_first(served: Served) -> None:
    for path in ("/ping", "/health"):
        assert served.get(path).json() == {"status": "Healthy"}
    assert served.get("/").status_code == 200
    assert served.get("/version").headers["content-type"] == "text/plain"
    found = served.get("/execution-parameters").json()
    assert (found["BatchStrategy"], found["MaxPayloadInMB"]) == ("SINGLE_RECORD", 10)


# -- TorchServe, Azure, Vertex


@pytest.mark.parametrize("where", ["loans", "loans/1"])
def test_torchserve_answers_are_bare(served: Served, where: str) -> None:
    labels = served.labels["loans"]
    for body in (ROWS, LISTS, {"instances": ROWS}, {"data": LISTS}):
        assert served.post(f"/predictions/{where}", body).json() == labels
    found = served.http.put(f"/predictions/{where}", json=ROWS[1])
    assert found.json() == labels[1]
    assert found.headers["doorstep-version"] == "1"


def test_torchserve_errors_have_its_form(served: Served) -> None:
    found = served.post("/predictions/nope", ROWS)
    assert (found.status_code, found.json()["type"]) == (404, "ModelNotFoundException")
    found = served.post("/predictions/loans", [3])
    assert (found.status_code, found.json()["code"]) == (400, 400)
    assert "row 0 is number 3" in found.json()["message"]


@pytest.mark.parametrize(
    "body",
    [{"input_data": SPLIT}, {"input_data": ROWS}, {"input_data": FRAME.to_dict("list")},
     {"data": LISTS}, {"data": ROWS}],
)  # fmt: skip
def test_azure_gets_a_bare_list(served: Served, body: Any) -> None:
    found = served.post("/score", body, Doorstep_Service="loans")
    assert found.json() == served.labels["loans"]
    body = {**body, "params": {"predict_method": "predict_proba"}}
    found = served.post("/score", body, Doorstep_Service="loans")
    np.testing.assert_allclose(found.json(), served.shares["loans"], rtol=1e-9)


def test_vertex_is_answered_at_the_paths_that_it_names(served: Served, alone: Served) -> None:
    path = "/v1/endpoints/7/deployedModels/9"
    assert alone.get(path).json() == {"status": "Healthy"}
    rows = [{**row, "age": float(row["age"])} for row in ROWS]
    found = alone.post(f"{path}:predict", {"instances": rows, "parameters": {}}).json()
    assert found["predictions"] == served.labels["loans"]
    assert (found["model"], found["modelVersionId"], found["deployedModelId"]) == (
        "loans", "1", "loans@1"
    )  # fmt: skip
    assert len(found["metadata"]["request_id"]) == 36
    odd = {"instances": [{**ROWS[0], "purpose": "boat"}]}
    assert alone.post(f"{path}:predict", odd).json()["metadata"]["warnings"] == ["unseen:purpose"]
    proba = {"instances": LISTS, "parameters": {"predict_method": "predict_proba"}}
    found = alone.post(f"{path}:predict", proba).json()
    np.testing.assert_allclose(found["predictions"], served.shares["loans"], rtol=1e-9)
    refused = alone.post(f"{path}:predict", {"rows": []})
    assert (refused.status_code, "no 'instances'" in refused.json()["error"]) == (400, True)
    assert alone.get(f"{path}:predict").status_code == 404


def test_a_single_service_needs_no_name(served: Served, alone: Served) -> None:
    assert alone.post("/invocations", LISTS).json() == {"predictions": served.labels["loans"]}
    assert alone.post("/score", {"data": LISTS}).json() == served.labels["loans"]


def test_every_row_of_every_protocol_is_in_the_journal(served: Served) -> None:
    asked = [
        served.post("/v1/models/loans:predict", {"instances": LISTS}),
        served.post("/invocations", LISTS, Doorstep_Service="loans"),
        served.post("/predictions/loans", LISTS),
        served.post("/score", {"data": LISTS}, Doorstep_Service="loans"),
    ]
    names = {one.headers["doorstep-request-id"] for one in asked}
    journaled = [name.rpartition(".")[0] for name, _ in served.node.journaled()]
    assert [journaled.count(name) for name in names] == [3] * 4


def test_the_context_header_is_read_beside_rows_of_any_form(served: Served) -> None:
    for body in ({"instances": LISTS}, {"instances": ROWS}):
        found = served.post("/v1/models/loans:predict", body, Doorstep_Context='{"store": 3}')
        assert found.status_code == 200, found.text
        found = served.post("/v1/models/loans:predict", body, Doorstep_Context='{"store": "x"}')
        assert "context 0: field 'store' is text 'x'" in found.json()["error"]
