# SPDX-License-Identifier: Apache-2.0
"""Models that take a camera's frames: bytes, height before width, colors last and in the order of OpenCV (BGR)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino

LARGEST_BYTE = 255.0
"""What is 1 in the images of the training."""


def take_frames_in_onnx(path: Path) -> None:
    """Let an ONNX file take bytes of shape ``(B, H, W, 3)`` in the order BGR.

    Args:
        path: A file whose input is ``(B, 3, H, W)`` of numbers in [0, 1] in the order RGB, changed in place.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path, load_external_data=False)
    graph, frames = model.graph, model.graph.input[0]
    images = f"{frames.name}/images"
    for node in graph.node:
        node.input[:] = [images if name == frames.name else name for name in node.input]
    shape = frames.type.tensor_type.shape.dim
    batch, _, height, width = [dim.dim_param or dim.dim_value for dim in shape]
    frames.CopyFrom(helper.make_tensor_value_info(frames.name, TensorProto.UINT8, [batch, height, width, 3]))
    order, largest = f"{frames.name}/order", f"{frames.name}/largest"
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], dtype=np.int64), order))
    graph.initializer.append(numpy_helper.from_array(np.array(LARGEST_BYTE, dtype=np.float32), largest))
    colors, planes, numbers = (f"{frames.name}/{name}" for name in ("colors", "planes", "numbers"))
    nodes = [
        helper.make_node("Gather", [frames.name, order], [colors], "camera/colors", axis=3),
        helper.make_node("Transpose", [colors], [planes], "camera/planes", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", [planes], [numbers], "camera/numbers", to=TensorProto.FLOAT),
        helper.make_node("Div", [numbers, largest], [images], "camera/images"),
    ]
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
    onnx.save(model, path)


def take_frames_in_openvino(model: "openvino.Model") -> "openvino.Model":
    """Let an OpenVINO model take bytes of shape ``(B, H, W, 3)`` in the order BGR.

    Args:
        model: A model whose input is ``(B, 3, H, W)`` of numbers in [0, 1] in the order RGB.

    Returns:
        The model; what was passed is not to be used any more.
    """
    from openvino import Layout, Type
    from openvino.preprocess import ColorFormat, PrePostProcessor

    steps = PrePostProcessor(model)
    frames = steps.input()
    frames.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC")).set_color_format(ColorFormat.BGR)
    frames.model().set_layout(Layout("NCHW"))
    frames.preprocess().convert_color(ColorFormat.RGB).convert_element_type(Type.f32).scale(LARGEST_BYTE)
    return steps.build()
