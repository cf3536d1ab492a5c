"""A home with signed plans and small ONNX bundles, without a control plane: for tests of nodes.

home = TestHome(tmp_path / "home")
digest = home.bundle(home.contract(3))
home.publish(home.service("loans", {1: digest}))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.contract import Contract, Field
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    OnnxForm,
    Tensor,
    encode_manifest,
)
from doorstep.core.plan import ApiKey, KeysPlan, PlanPointer, PlanRoot, ServicePlan, VersionPlan
from doorstep.kernel.files import write_atomic

MODEL_FILE = "model/onnx/model.onnx"
TIMEOUT_MS = 10_000
"""No test of what is answered depends on how busy the machine is; one of time-outs says its own."""
Behaviour = Literal["linear", "nan", "raises", "slow"]
"""nan: scores are not finite when the first number is negative. raises: the model raises then.
slow: takes some milliseconds more."""
SLOW_WIDTH = 1500
SLOW_TIMES = 4


class TestHome:
    """Writes a home as the control plane would."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.path = path
        for name in ("bundles", "plan", "journal", "nodes"):
            (path / name).mkdir(parents=True, exist_ok=True)
        self._key = Ed25519PrivateKey.generate()
        self.number = 0
        self.renewal = 0
        self._pointer: PlanPointer | None = None

    @staticmethod
    def contract(numbers: int, **changes: Any) -> Contract:
        """float fields x0, x1, ..."""
        fields = tuple(Field(name=f"x{at}", type="float") for at in range(numbers))
        return msgspec.structs.replace(Contract(inputs=fields), **changes)

    def bundle(
        self,
        contract: Contract,
        *,
        seed: int = 0,
        labels: Sequence[str] = ("bad", "good"),
        behaviour: Behaviour = "linear",
    ) -> str:
        """A softmax of a linear map of the number inputs; () labels: a linear regression. Answers
        the digest."""
        width = len(contract.numbers)
        data = linear_onnx(width, len(labels), seed, behaviour)
        names = tuple(one.name for one in contract.numbers)
        tensors = (Tensor(name="input", datatype="FP32", columns=names),)
        onnx = OnnxForm(file=MODEL_FILE, opset=17, inputs=tensors, scores="scores")
        entry = FileEntry(path=MODEL_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        task = "binary" if len(labels) == 2 else "multiclass" if labels else "regression"
        manifest = Manifest(
            format=1,
            task=task,  # type: ignore[arg-type]
            label="label",
            labels=tuple(labels),
            positive=labels[0] if len(labels) == 2 else "",
            threshold=0.5,
            contract=contract,
            native=NativeForm(family="onnx", serialization="onnx", file=MODEL_FILE),
            onnx=onnx,
            parity=None,
            lineage=Lineage(),
            reads=names,
            files=(entry,),
        )
        return self.add_bundle(manifest, {MODEL_FILE: data})

    def add_bundle(self, manifest: Manifest, files: Mapping[str, bytes]) -> str:
        """Write a bundle; answers its digest."""
        data = encode_manifest(manifest)
        folder = self.path / "bundles" / digest_of(data)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / "manifest.json").write_bytes(data)
        return folder.name

    def model_path(self, digest: str) -> Path:
        return self.path / "bundles" / digest / MODEL_FILE

    def service(
        self,
        name: str,
        bundles: Mapping[int, str],
        *,
        contract: Contract | None = None,
        placement: Literal["inline", "engine"] = "inline",
        **changes: Any,
    ) -> ServicePlan:
        """A service plan; the lowest version is champion. contract: default, that of its bundle."""
        versions = tuple(
            VersionPlan(number=number, bundle=digest, form="onnx", placement=placement)
            for number, digest in sorted(bundles.items())
        )
        plan = ServicePlan(
            format=1,
            service=name,
            contract=contract or self.read_manifest(versions[0].bundle).contract,
            versions=versions,
            champion=min(bundles),
            timeout_ms=TIMEOUT_MS,
        )
        return msgspec.structs.replace(plan, **changes)

    def read_manifest(self, digest: str) -> Manifest:
        data = (self.path / "bundles" / digest / "manifest.json").read_bytes()
        return msgspec.json.decode(data, type=Manifest)

    def publish(
        self,
        *services: ServicePlan,
        term: int = 1,
        number: int | None = None,
        lease_s: float = 60.0,
        keys: Sequence[ApiKey] = (),
        spoil: Callable[[PlanPointer], PlanPointer] = lambda pointer: pointer,
    ) -> int:
        """Write the documents and then the pointer; answers the plan number. spoil: changes the
        signed pointer before anybody sees it."""
        self.number = self.number + 1 if number is None else number
        root = PlanRoot(
            format=1,
            environment="test",
            term=term,
            number=self.number,
            made_at=0,
            services={one.service: self._write(msgspec.json.encode(one)) for one in services},
            challenger_lease_s=lease_s,
            keys=self._write(msgspec.json.encode(KeysPlan(format=1, keys=tuple(keys))))
            if keys
            else "",
        )
        self._point(term, self._write(msgspec.json.encode(root)), spoil)
        return self.number

    def renew(self) -> None:
        """Renew the challenger lease of the plan that was published last."""
        assert self._pointer is not None
        self._point(self._pointer.term, self._pointer.root, lambda pointer: pointer)

    def write_pointer(self, pointer: PlanPointer) -> None:
        write_atomic(self.path / "plan" / "current", msgspec.json.encode(pointer))

    def sign(self, pointer: PlanPointer) -> PlanPointer:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        signature = self._key.sign(pointer.signed_bytes()).hex()
        return msgspec.structs.replace(pointer, key=public.hex(), signature=signature)

    def _point(self, term: int, root: str, spoil: Callable[[PlanPointer], PlanPointer]) -> None:
        self.renewal += 1
        pointer = PlanPointer(
            format=1, term=term, number=self.number, root=root, renewal=self.renewal
        )
        self._pointer = self.sign(pointer)
        self.write_pointer(spoil(self._pointer))

    def _write(self, data: bytes) -> str:
        digest = digest_of(data)
        (self.path / "plan" / f"{digest}.json").write_bytes(data)
        return digest


def linear_weights(width: int, outputs: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The float32 weights [width, outputs] and offsets [outputs] of `linear_onnx`."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(width, outputs)).astype(np.float32)
    return weights, generator.normal(size=outputs).astype(np.float32)


def linear_onnx(width: int, labels: int, seed: int, behaviour: Behaviour = "linear") -> bytes:
    """An ONNX model: input [n, width] float32 -> scores [n, labels] (softmax), or [n, 1] without
    labels. Needs the `onnx` package."""
    from onnx import TensorProto, helper, numpy_helper

    outputs = labels or 1
    weights, offsets = linear_weights(width, outputs, seed)
    tensors = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(offsets, "b")]
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
    ]
    last = "linear"
    nodes.append(
        helper.make_node("Softmax", ["sum"], [last], axis=1)
        if labels
        else helper.make_node("Identity", ["sum"], [last])
    )
    if behaviour != "linear":
        more, constants = _misbehave(behaviour, last)
        nodes += more
        tensors += constants
        last = "odd"
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, outputs])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _misbehave(behaviour: Behaviour, scores: str) -> tuple[list[Any], list[Any]]:
    """Nodes that spoil `scores` into `odd` where the first number is negative."""
    from onnx import TensorProto, helper, numpy_helper

    if behaviour == "slow":
        return _dawdle(scores)
    constants = [
        numpy_helper.from_array(np.array([0], dtype=np.int64), "first"),
        numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
        numpy_helper.from_array(np.zeros(1, dtype=np.float32), "table"),
    ]
    nodes = [helper.make_node("Gather", ["input", "first"], ["head"], axis=1)]
    if behaviour == "nan":
        nodes.append(helper.make_node("Sqrt", ["head"], ["root"]))
        nodes.append(helper.make_node("Mul", ["root", "zero"], ["nothing"]))
    else:
        # An index of 7 into a table of one raises; an index of 0 does not.
        constants.append(numpy_helper.from_array(np.array(7, dtype=np.int64), "seven"))
        nodes.append(helper.make_node("Less", ["head", "zero"], ["negative"]))
        nodes.append(helper.make_node("Cast", ["negative"], ["bit"], to=TensorProto.INT64))
        nodes.append(helper.make_node("Mul", ["bit", "seven"], ["index"]))
        nodes.append(helper.make_node("Gather", ["table", "index"], ["nothing"], axis=0))
    nodes.append(helper.make_node("Add", [scores, "nothing"], ["odd"]))
    return nodes, constants


def _dawdle(scores: str) -> tuple[list[Any], list[Any]]:
    """Nodes that add to `scores` a zero that is long to compute, out of a file that stays small."""
    from onnx import helper, numpy_helper

    width, nodes, constants = SLOW_WIDTH, [], []
    for name, shape in (("in", (3, width)), ("on", (width, width)), ("out", (width, 1))):
        constants.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"shape_{name}"))
        nodes.append(helper.make_node("ConstantOfShape", [f"shape_{name}"], [f"zeros_{name}"]))
    factors = ["in", *["on"] * SLOW_TIMES, "out"]
    for at, factor in enumerate(factors):
        inputs = ["input" if at == 0 else f"slow{at}", f"zeros_{factor}"]
        nodes.append(helper.make_node("MatMul", inputs, [f"slow{at + 1}"]))
    nodes.append(helper.make_node("Add", [scores, f"slow{len(factors)}"], ["odd"]))
    return nodes, constants
