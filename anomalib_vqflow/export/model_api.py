# SPDX-License-Identifier: Apache-2.0
"""What OpenVINO Model API and DL Streamer read in a model's file to run it as training did."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

OUTPUTS = {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
"""Model API takes a prediction as it is if it consists of these, and else computes one from a map."""

MAP = "anomaly_map"
"""From this output alone, Model API and DL Streamer tell a label and a score, by its highest value."""


def tell_model_api(
    model: "openvino.Model", image_threshold: float | None, pixel_threshold: float, takes_frames: bool
) -> None:
    """Say in the runtime information of a model how Model API shall run it.

    Of a fixed size, Model API itself turns images of bytes in the order of OpenCV (BGR) into the model's input, if it
    is told how. Of any size, it only scales them, and does not change their order, whatever it is told. A model that
    will take frames gets them as they are.

    A model without a threshold, or with other outputs than Model API takes, is not described: Model API would run it
    wrongly. DL Streamer takes maps only, and the task of classification.

    Args:
        model: Exported model, changed in place.
        image_threshold: Threshold of the scores that the model tells, or of the highest values of its maps if it tells
            maps only; None if there is none.
        pixel_threshold: Threshold of its maps.
        takes_frames: Whether bytes become the model's input in the model itself.
    """
    told = {name for output in model.outputs for name in output.names}
    if told not in (OUTPUTS, {MAP}) or image_threshold is None:
        return
    info: dict[str, str | float] = {
        "model_type": "AnomalyDetection",
        "task": "segmentation" if told == OUTPUTS else "classification",
        "labels": "Normal Anomaly",
        "image_threshold": image_threshold,
        "pixel_threshold": pixel_threshold,
        "normalization_scale": 1.0,  # scores and maps are normalized in the model
        "resize_type": "standard",  # which keeps no proportions
    }
    size = fixed_size(model)
    if takes_frames:
        info["embedded_processing"] = "YES"
        if size is not None:
            info |= {"orig_height": size[0], "orig_width": size[1]}
    elif size is not None:
        info |= {"scale_values": "255 255 255", "reverse_input_channels": "YES"}
    for name, value in info.items():
        model.set_rt_info(str(value), ["model_info", name])


def keep_map(model: "openvino.Model") -> None:
    """Leave a model no output but the map.

    Args:
        model: Exported model, changed in place.
    """
    for output in model.outputs:
        if MAP not in output.names:
            model.remove_result(output.get_node())


def keep_colors(model: "openvino.Model") -> None:
    """Let a swap of colors that is added to a model later have an effect.

    OpenVINO (2026.4.1) moves a swap that ``PrePostProcessor`` adds, as Model API has it do, into the weights of the
    first convolution. If the model is compiled without being saved before, the swap is lost. It is not moved behind a
    ``Reshape``, which compiling removes.

    Args:
        model: Exported model, changed in place.
    """
    import numpy as np
    import openvino.opset13 as ops

    image = model.input(0)
    readers = image.get_target_inputs()
    same = ops.reshape(image, ops.constant(np.zeros(4, dtype=np.int64)), special_zero=True)
    for reader in readers:
        reader.replace_source_output(same.output(0))
    model.validate_nodes_and_infer_types()


def fixed_size(model: "openvino.Model") -> tuple[int, int] | None:
    """Tell the size of the images that a model takes.

    Args:
        model: Exported model.

    Returns:
        Height and width of its input; None if it takes any.
    """
    height, width = list(model.input(0).partial_shape)[2:]
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None
