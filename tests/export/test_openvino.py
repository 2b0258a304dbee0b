# SPDX-License-Identifier: Apache-2.0
"""OpenVINO computes what ONNX says, as fast as it can."""

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from anomalib_vqflow.condition import ConditionedConv2d
from anomalib_vqflow.export.openvino import conversion_extensions

from .predictions import FP32


def lookup_graph(path, *, by="GatherND", keepdims=0, axes=(1,), rank=2):
    """Write an ONNX model that gathers rows of a table and sums some of them up."""
    table = np.random.default_rng(0).normal(size=(7, 5, 3)[-rank:]).astype(np.float32)
    shape = [None, 4, 1] if by == "GatherND" else [None, 4]
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, shape)
    nodes = [
        helper.make_node(by, ["table", "rows"], ["gathered"]),
        helper.make_node("ReduceSum", ["gathered", "axes"], ["output"], keepdims=keepdims),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(axes), "axes")]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "lookup", [rows], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return np.random.default_rng(1).integers(0, table.shape[0], (6, *shape[1:]))


@pytest.mark.parametrize(
    ("options", "bags"),
    [
        ({}, 1),
        ({"keepdims": 1}, 0),
        ({"axes": (2,)}, 0),
        ({"axes": (0, 1)}, 0),
        ({"by": "Gather"}, 0),
        ({"rank": 3}, 0),
    ],
    ids=str,
)
def test_sums_of_table_rows_become_bags(tmp_path, options, bags):
    """Rows of a table are added up as they are read; every other sum converts as before. The numbers stay."""
    rows = lookup_graph(tmp_path / "model.onnx", **options)
    native = openvino.convert_model(tmp_path / "model.onnx")
    ours = openvino.convert_model(tmp_path / "model.onnx", extension=conversion_extensions())
    expected, actual = (openvino.compile_model(model, "CPU", FP32)(rows)[0] for model in (native, ours))

    assert [op.get_type_name() for op in ours.get_ops()].count("EmbeddingBagPackedSum") == bags
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("axis", "keepdims"), [(-1, 0), (1, 0), (2, 1)])
def test_least_values_are_found(tmp_path, axis, keepdims):
    """As OpenVINO finds them itself, which promises the first of equal ones and is slower."""
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    node = helper.make_node("ArgMin", ["values"], ["least"], axis=axis, keepdims=keepdims)
    given = helper.make_tensor_value_info("values", TensorProto.FLOAT, [None, 4, 5])
    told = helper.make_tensor_value_info("least", TensorProto.INT64, None)
    graph = helper.make_graph([node], "least", [given], [told])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx"
    )
    ours = openvino.convert_model(tmp_path / "model.onnx", extension=conversion_extensions())

    found = openvino.compile_model(ours, "CPU", FP32)(values)[0]
    np.testing.assert_array_equal(found, np.argmin(values, axis=axis, keepdims=bool(keepdims)))
    assert [op.get_attributes()["stable"] for op in ours.get_ops() if op.get_type_name() == "TopK"] == [False]


def test_exported_models_look_the_condition_up(model, exported):
    """Every subnet's convolution holds a table, where that saves enough for what the file grows by."""
    convolutions = [part for part in model.model.modules() if isinstance(part, ConditionedConv2d)]
    graph = onnx.load(exported("onnx")).graph
    kernels = {tuple(tensor.dims) for tensor in graph.initializer}
    operations = [op.get_type_name() for op in openvino.Core().read_model(exported("openvino")).get_ops()]

    assert operations.count("EmbeddingBagPackedSum") == len(convolutions) == 5
    assert not kernels & {tuple(conv.weight.shape) for conv in convolutions}
