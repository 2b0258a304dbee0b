# SPDX-License-Identifier: Apache-2.0
"""Conversions from ONNX that OpenVINO lacks, or does in a way that is slow to compute."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Output
    from openvino.frontend import NodeContext
    from openvino.frontend.onnx import ConversionExtension


def conversion_extensions() -> "list[ConversionExtension]":
    """Make OpenVINO convert what our models consist of to what it computes fastest.

    Returns:
        Extensions for ``openvino.convert_model``.
    """
    from openvino.frontend.onnx import ConversionExtension

    return [ConversionExtension("ReduceSum", convert_sum), ConversionExtension("ArgMin", convert_arg_min)]


def convert_sum(node: "NodeContext") -> "list[Output]":
    """Add up table rows as they are read, where ONNX gathers them all and sums afterwards.

    ONNX has no such operator; OpenVINO's ``EmbeddingBagPackedSum`` is one. All other sums are converted as OpenVINO
    would.

    Args:
        node: ``ReduceSum`` of ONNX.

    Returns:
        Its result.
    """
    import openvino.opset13 as ops

    summed, axes = node.get_input(0), node.get_input(1)
    gather, axis = summed.get_node(), axes.get_node()
    if gather.get_type_name() == "GatherND" and axis.get_type_name() == "Constant":
        table, rows = gather.input_value(0), gather.input_value(1)  # (R, d) and (cells, n, 1)
        ranks = [len(value.get_partial_shape()) for value in (table, rows)]
        if ranks == [2, 3] and axis.get_vector().tolist() == [1] and not node.get_attribute("keepdims", 1):
            rows = ops.squeeze(rows, ops.constant(np.array([-1], dtype=np.int64))).output(0)
            return [ops.embedding_bag_packed_sum(table, rows).output(0)]
    return [ops.reduce_sum(summed, axes, bool(node.get_attribute("keepdims", 1))).output(0)]


def convert_arg_min(node: "NodeContext") -> "list[Output]":
    """Find the least of some values without promising which of equal ones.

    OpenVINO promises the first of them for ``ArgMin``, which takes it several times as long. Codes have no equal
    distances but by chance.

    Args:
        node: ``ArgMin`` of ONNX.

    Returns:
        Its result.
    """
    import openvino.opset13 as ops

    axis = node.get_attribute("axis", 0)
    least = ops.topk(node.get_input(0), ops.constant(np.int64(1)), axis, "min", "value", index_element_type="i64")
    if node.get_attribute("keepdims", 1):
        return [least.output(1)]
    return [ops.squeeze(least.output(1), ops.constant(np.array([axis], dtype=np.int64))).output(0)]
