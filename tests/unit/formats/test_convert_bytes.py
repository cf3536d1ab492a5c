"""A conversion gives the same bytes in every process, so that the same model is one version."""

from __future__ import annotations

import itertools

from onnx import TensorProto, helper

from doorstep.core.manifest import Tensor
from doorstep.formats.convert import Converted, Style, _finished


def test_the_order_in_which_domains_were_found_does_not_reach_the_bytes() -> None:
    found = set()
    for domains in itertools.permutations([("", 13), ("ai.onnx.ml", 1)]):
        scaler = helper.make_node(
            "Scaler", ["rows"], ["scores"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]
        )
        rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 1])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])
        model = helper.make_model(
            helper.make_graph([scaler], "g", [rows], [scores]),
            opset_imports=[helper.make_opsetid(*one) for one in domains],
            ir_version=8,
        )
        inputs = (Tensor(name="rows", datatype="FP32", columns=("a",)),)
        converted = _finished(model, inputs, Style(), classifies=False)
        assert isinstance(converted, Converted), converted
        found.add(converted.data)
    assert len(found) == 1
