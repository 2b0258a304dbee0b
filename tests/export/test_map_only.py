# SPDX-License-Identifier: Apache-2.0
"""A model that tells the map only is labeled by Model API and DL Streamer as by its scores, as well as a map can."""

import json

import numpy as np
import openvino
import pytest
from openvino.preprocess import PrePostProcessor

from anomalib_vqflow.export.metadata import METADATA_FILE
from anomalib_vqflow.export.model_api import OUTPUTS, keep_colors, keep_map, tell_model_api
from tests.tiny import tiny_model

from .predictions import FP32, TOLERANCE
from .test_camera import Frozen
from .test_model_api import SIZE, as_input, colored_bytes, info_of, model_api, small_model

MAP_ONLY = Frozen(map_only=True)


def dl_streamer(path):
    """What DL Streamer's ``gvaclassify`` does with a frame, as its source says (2026.1).

    It gives the model bytes of the model's size in planes, in the order that ``reverse_input_channels`` asks for, and
    demands a map of one channel. Its label and confidence are those of the map's highest value.
    """
    model = openvino.Core().read_model(path)
    info = info_of(model)
    assert (info["model_type"], info["task"]) == ("AnomalyDetection", "classification")
    labels = info["labels"].split()
    assert labels == ["Normal", "Anomaly"]
    threshold, scale = (float(info[name]) for name in ("image_threshold", "normalization_scale"))
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NCHW"))
    steps.input().model().set_layout(openvino.Layout("??HW"))
    scales = [float(number) for number in info["scale_values"].split()]
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(scales)
    model = steps.build()
    openvino.set_batch(model, 1)
    compiled = openvino.compile_model(model, "CPU", FP32)
    order = slice(None, None, -1) if info["reverse_input_channels"] == "YES" else slice(None)

    def classify(frame):
        (anomaly_map,) = compiled(np.ascontiguousarray(frame[..., order].transpose(2, 0, 1))[None]).values()
        assert anomaly_map.ndim == 4
        assert anomaly_map.shape[1] == 1
        assert anomaly_map.dtype == np.float32
        peak = float(anomaly_map.clip(0, 1).max())
        confidence = min(max((peak - threshold) / scale + 0.5, 0), 1)
        return (labels[1], confidence) if peak > threshold else (labels[0], 1 - confidence)

    return classify


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "fp16", "int8_ptq"])
def test_dl_streamer_and_model_api_agree(exported, compression):
    """From the file, both tell the label and the score of the map's highest value, which is that of the full model."""
    full = exported("openvino", compression, input_size=SIZE)
    path = exported("openvino", compression, input_size=SIZE, onnx_kwargs=MAP_ONLY)
    image = colored_bytes()
    frame = np.ascontiguousarray(image[..., ::-1])
    expected = openvino.compile_model(full, "CPU", FP32)(as_input(image))["anomaly_map"]
    found = openvino.compile_model(path, "CPU", FP32)(as_input(image))
    assert len(found) == 1
    np.testing.assert_allclose(found["anomaly_map"], expected, atol=TOLERANCE)

    streamed, api = dl_streamer(path)(frame), model_api(path)(frame)
    assert (api.pred_label, api.pred_score) == (streamed[0], pytest.approx(streamed[1], abs=TOLERANCE))
    described = json.loads((path.parent / METADATA_FILE).read_text(encoding="utf-8"))
    assert described["outputs"] == ["anomaly_map"]
    above = expected.max() - described["map_peak_threshold"]["told"]
    confidence = min(0.5 + abs(above), 1)
    assert streamed == (("Anomaly", "Normal")[int(above <= 0)], pytest.approx(confidence, abs=TOLERANCE))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_highest_value_is_held_against_the_threshold(tmp_path, factor):
    """A saved model has no output but the map, and Model API and DL Streamer tell the same of it."""
    image, path, model = colored_bytes((8, 8)), tmp_path / "model.xml", small_model(outputs=sorted(OUTPUTS))
    keep_map(model)
    assert [output.names for output in model.outputs] == [{"anomaly_map"}]
    peak = openvino.compile_model(model, "CPU", FP32)(as_input(image))[0].max()
    assert 0 < peak < 1
    keep_colors(model)
    tell_model_api(model, factor * peak, 0.5, takes_frames=False)
    openvino.save_model(model, path, compress_to_fp16=False)
    frame = np.ascontiguousarray(image[..., ::-1])
    label, confidence = dl_streamer(path)(frame)
    assert label == ("Anomaly" if factor < 1 else "Normal")
    assert confidence == pytest.approx(0.5 + 0.1 * peak, abs=1e-5)
    found = model_api(path)(frame)
    assert (found.pred_label, found.pred_score) == (label, pytest.approx(confidence, abs=1e-5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"map_only": "yes"}, "map_only must be True or False, got 'yes'"),
        ({}, "map_only needs an input_size"),
        ({"input_size": SIZE, "camera_input": True}, "map_only does not go with camera_input"),
        ({"input_size": SIZE, "onnx_kwargs": {"output_names": ["pred_score"]}}, "leave output_names out"),
        ({"input_size": SIZE}, "map_only needs a model that normalizes its maps, and knows a threshold"),
    ],
    ids=str,
)
def test_what_cannot_be_streamed_is_refused(tmp_path, arguments, message):
    """Before anything is written."""
    with pytest.raises(ValueError, match=message):
        tiny_model().to_openvino(tmp_path, **{"map_only": True, **arguments})
    assert not list(tmp_path.iterdir())
