# SPDX-License-Identifier: Apache-2.0
"""OpenVINO Model API runs an exported model as all others do."""

import numpy as np
import onnxruntime
import openvino
import openvino.opset13 as ops
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer
from openvino.preprocess import ColorFormat, PrePostProcessor

from anomalib_vqflow.export.model_api import OUTPUTS, fixed_size, keep_colors, tell_model_api

from .predictions import FP32, TOLERANCE, some_images

SIZE = (64, 64)  # the model's own, so that its first operator is the normalization


def colored_bytes(size=SIZE):
    """An image as it is read, ``(H, W, 3)`` of bytes in the order RGB, whose blue is not its red."""
    image = some_images(4, size)[-1] * torch.tensor([0.25, 1, 1]).view(3, 1, 1)
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def as_input(image):
    """The same as the plain model takes it."""
    return np.ascontiguousarray((image.astype(np.float32) / 255).transpose(2, 0, 1)[None])


def model_api(path):
    """Open a model in Model API, which gives no configuration of the device but by its adapter."""
    pytest.importorskip("model_api")
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    adapter = OpenvinoAdapter(openvino.Core(), str(path), device="CPU", plugin_config=dict(FP32))
    return Model.create_model(adapter)


def small_model(height=8, width=8, outputs=sorted(OUTPUTS)):  # noqa: B008
    """A model whose first operators are those of an exported one, an addition and a convolution, for maps below 1."""
    generator = np.random.default_rng(0)
    image = ops.parameter([-1, 3, height, width], np.float32, "input")
    image.output(0).set_names({"input"})
    shifted = ops.add(image, ops.constant(generator.random((1, 3, 1, 1), dtype=np.float32)))
    weights = ops.constant(generator.random((1, 3, 2, 2), dtype=np.float32) / 24)
    result = ops.convolution(shifted, weights, [2, 2], [0, 0], [0, 0], [1, 1])
    results = [ops.result(ops.relu(result)) for _ in outputs]
    for one, name in zip(results, outputs, strict=True):
        one.output(0).set_names({name})
    return openvino.Model(results, [image])


def info_of(model):
    return {name: str(value.astype(str)) for name, value in model.get_rt_info("model_info").astype(dict).items()}


@pytest.mark.parametrize(
    ("compression", "size"),
    [
        (None, None),
        pytest.param(None, SIZE, marks=pytest.mark.slow),
        pytest.param(None, (72, 80), marks=pytest.mark.slow),
        *(pytest.param(kind, s, marks=pytest.mark.slow) for kind in ("fp16", "int8_ptq") for s in (None, SIZE)),
    ],
)
def test_all_ways_to_run_a_file_agree(exported, compression, size):
    """Model API, anomalib's inferencer and OpenVINO alone tell the same score, label, map and mask of one file."""
    path = exported("openvino", compression, **({} if size is None else {"input_size": size}))
    image = colored_bytes(size or SIZE)
    plain = openvino.compile_model(path, "CPU", FP32)
    expected = plain(as_input(image))
    blue = plain(as_input(image[..., ::-1]))["pred_score"].item()
    score = expected["pred_score"].item()
    assert abs(score - blue) > 10 * TOLERANCE

    inferred = OpenVINOInferencer(path, device="CPU", config=FP32).predict(image)
    assert inferred.pred_score.item() == pytest.approx(score, abs=TOLERANCE)
    assert inferred.pred_label.item() == expected["pred_label"].item()

    found = model_api(path)(image if size is None else image[..., ::-1].copy())  # BGR, where it swaps
    assert found.pred_score == pytest.approx(score, abs=TOLERANCE)
    assert found.pred_label == str(expected["pred_label"].item())
    if expected["anomaly_map"].shape[2:] == image.shape[:2]:  # else it resizes what it tells
        np.testing.assert_allclose(found.anomaly_map, 255 * expected["anomaly_map"][0, 0], atol=0.5 + 255 * TOLERANCE)
        np.testing.assert_array_equal(found.pred_mask, expected["pred_mask"][0, 0])


@pytest.mark.parametrize("size", [None, pytest.param(SIZE, marks=pytest.mark.slow)])
def test_onnx_agrees(exported, size):
    """ONNX Runtime tells of an ONNX file what OpenVINO tells of its own."""
    arguments = {} if size is None else {"input_size": size}
    images = as_input(colored_bytes())
    expected = openvino.compile_model(exported("openvino", None, **arguments), "CPU", FP32)(images)
    session = onnxruntime.InferenceSession(exported("onnx", None, **arguments))
    score, label, anomaly_map = session.run(["pred_score", "pred_label", "anomaly_map"], {"input": images})
    np.testing.assert_allclose(score, expected["pred_score"], atol=TOLERANCE)
    np.testing.assert_array_equal(label, expected["pred_label"])
    np.testing.assert_allclose(anomaly_map, expected["anomaly_map"], atol=TOLERANCE)


def test_any_size_in_model_api(exported, model):
    """A model for any size resizes in itself, under Model API too."""
    image = colored_bytes((100, 150))
    with torch.no_grad():
        expected = model(torch.from_numpy(as_input(image)))
    found = model_api(exported("openvino"))(image)
    assert found.pred_score == pytest.approx(expected.pred_score.item(), abs=TOLERANCE)
    assert found.anomaly_map.shape == (100, 150)


@pytest.mark.parametrize(("size", "is_fixed"), [((8, 8), True), ((-1, -1), False), ((8, -1), False)])
def test_what_model_api_is_told(tmp_path, size, is_fixed):
    """A file holds the thresholds and, of a fixed size only, how bytes become the model's input."""
    model = small_model(*size)
    assert fixed_size(model) == (size if is_fixed else None)
    tell_model_api(model, 0.5, 0.25, takes_frames=False)
    openvino.save_model(model, tmp_path / "model.xml")
    info = info_of(openvino.Core().read_model(tmp_path / "model.xml"))
    preparation = {name: info.pop(name) for name in ("scale_values", "reverse_input_channels") if name in info}
    assert preparation == ({"scale_values": "255 255 255", "reverse_input_channels": "YES"} if is_fixed else {})
    assert info == {
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomaly",
        "image_threshold": "0.5",
        "pixel_threshold": "0.25",
        "normalization_scale": "1.0",
        "resize_type": "standard",
    }


@pytest.mark.parametrize(
    ("outputs", "threshold"),
    [(["pred_score", "anomaly_map"], 0.5), ([*sorted(OUTPUTS), "concept"], 0.5), (["anomaly_map"], None)],
)
def test_other_outputs_are_not_for_model_api(outputs, threshold):
    """Model API would compute scores of its own, or labels without a threshold, or refuse the model."""
    model = small_model(outputs=outputs)
    tell_model_api(model, threshold, 0.5, takes_frames=False)
    assert not model.has_rt_info(["model_info", "model_type"])


@pytest.mark.slow
def test_a_swap_of_colors_has_an_effect(exported):
    """Pre-processing that is added to a model in memory swaps the colors that the model reads."""
    image = colored_bytes()
    model = openvino.Core().read_model(exported("openvino", None, input_size=SIZE))
    expected = openvino.compile_model(model, "CPU", FP32)(as_input(image))["pred_score"]
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_color(ColorFormat.RGB).convert_element_type(openvino.Type.f32).scale(255.0)
    found = openvino.compile_model(steps.build(), "CPU", FP32)(image[None, ..., ::-1].copy())["pred_score"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_colors_are_kept_at_no_cost():
    """What keeps them is not in the compiled model, which computes the same."""
    image, models = as_input(colored_bytes((8, 8))), (small_model(), small_model())
    keep_colors(models[1])
    compiled = [openvino.compile_model(model, "CPU", FP32) for model in models]
    kinds = [sorted(node.get_friendly_name() for node in one.get_runtime_model().get_ops()) for one in compiled]
    assert len(kinds[0]) == len(kinds[1])
    np.testing.assert_array_equal(compiled[0](image)["pred_score"], compiled[1](image)["pred_score"])
