# SPDX-License-Identifier: Apache-2.0
"""Conversions from ONNX that OpenVINO lacks: antialiased resizing, and table lookups that sum as they read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Output
    from openvino.frontend import NodeContext
    from openvino.frontend.onnx import ConversionExtension

ONNX_TO_OPENVINO_MODE = {"nearest": "nearest", "linear": "linear_onnx", "cubic": "cubic"}
ANTIALIASED_MODE = {"linear": "bilinear_pillow", "cubic": "bicubic_pillow"}


def resize_extension() -> "ConversionExtension":
    """Make OpenVINO antialias where ONNX's ``Resize`` says so.

    OpenVINO (2026.4) converts every ``Resize`` to an interpolation that ignores the flag. Its ``pillow`` modes compute
    what torch does. All other cases are converted as OpenVINO would.

    Returns:
        Extension for ``openvino.convert_model``.
    """
    import numpy as np
    import openvino.opset13 as ops
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: "NodeContext") -> "list[Output]":
        image = node.get_input(0)
        axes = ops.constant(np.arange(len(image.get_partial_shape()), dtype=np.int64))
        by_size = node.get_input_size() == 4  # image, region, scales, sizes; the last ones are optional
        mode = node.get_attribute("mode", "nearest")
        antialias = node.get_attribute("antialias", 0)
        resized = ops.interpolate(
            image,
            node.get_input(3 if by_size else 2),
            mode=(ANTIALIASED_MODE if antialias else ONNX_TO_OPENVINO_MODE)[mode],
            shape_calculation_mode="sizes" if by_size else "scales",
            axes=axes,
            coordinate_transformation_mode=node.get_attribute("coordinate_transformation_mode", "half_pixel"),
            nearest_mode=node.get_attribute("nearest_mode", "round_prefer_floor"),
            cube_coeff=node.get_attribute("cubic_coeff_a", -0.75),
        )
        return [resized.output(0)]

    return ConversionExtension("Resize", convert)


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
