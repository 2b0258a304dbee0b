# SPDX-License-Identifier: Apache-2.0
"""A conversion from ONNX that OpenVINO lacks: table lookups that sum as they read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Output
    from openvino.frontend import NodeContext
    from openvino.frontend.onnx import ConversionExtension


def table_lookup_extension() -> "ConversionExtension":
    """Make OpenVINO add up table rows as it reads them, where ONNX gathers them all and sums afterwards.

    ONNX has no such operator; OpenVINO's ``EmbeddingBagPackedSum`` is one. All other sums are converted as OpenVINO
    would.

    Returns:
        Extension for ``openvino.convert_model``.
    """
    import numpy as np
    import openvino.opset13 as ops
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: "NodeContext") -> "list[Output]":
        summed, axes = node.get_input(0), node.get_input(1)
        gather, axis = summed.get_node(), axes.get_node()
        if gather.get_type_name() == "GatherND" and axis.get_type_name() == "Constant":
            table, rows = gather.input_value(0), gather.input_value(1)  # (R, d) and (cells, n, 1)
            ranks = [len(value.get_partial_shape()) for value in (table, rows)]
            if ranks == [2, 3] and axis.get_vector().tolist() == [1] and not node.get_attribute("keepdims", 1):
                rows = ops.squeeze(rows, ops.constant(np.array([-1], dtype=np.int64))).output(0)
                return [ops.embedding_bag_packed_sum(table, rows).output(0)]
        return [ops.reduce_sum(summed, axes, bool(node.get_attribute("keepdims", 1))).output(0)]

    return ConversionExtension("ReduceSum", convert)
