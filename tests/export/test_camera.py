# SPDX-License-Identifier: Apache-2.0
"""A model that takes a camera's frames predicts what the plain one does."""

import json

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from anomalib_vqflow.export.camera import take_frames_in_onnx, take_frames_in_openvino
from anomalib_vqflow.export.metadata import METADATA_FILE
from anomalib_vqflow.export.model_api import keep_colors, tell_model_api
from tests.tiny import tiny_model

from .predictions import FP32, TOLERANCE
from .test_model_api import SIZE, as_input, colored_bytes, info_of, model_api, small_model

CAMERA = {"camera_input": True}


@pytest.fixture(scope="module")
def camera(model, folder):
    """Export a model for frames of any size to ONNX."""
    return model.to_onnx(folder / "camera", **CAMERA)


def test_onnx_takes_frames(model, camera):
    """Bytes in the order BGR score as the image does, in any number and size, in ONNX Runtime and in OpenVINO."""
    onnx.checker.check_model(onnx.load(camera))
    session, compiled = onnxruntime.InferenceSession(camera), openvino.compile_model(camera, "CPU", FP32)
    for size in (SIZE, (100, 150)):
        image = colored_bytes(size)
        frames = np.stack([image[..., ::-1]] * 2)
        with torch.no_grad():
            expected = model(torch.from_numpy(as_input(image)))
            blue = model(torch.from_numpy(as_input(image[..., ::-1])))
        assert abs(expected.pred_score - blue.pred_score) > 10 * TOLERANCE
        for score, anomaly_map in (
            session.run(["pred_score", "anomaly_map"], {"input": frames}),
            [compiled(frames)[name] for name in ("pred_score", "anomaly_map")],
        ):
            np.testing.assert_allclose(score, expected.pred_score.expand(2), atol=TOLERANCE)
            np.testing.assert_allclose(anomaly_map[1:], expected.anomaly_map, atol=TOLERANCE)
    described = json.loads((camera.parent / METADATA_FILE).read_text(encoding="utf-8"))["input"]
    told = {"layout": "NHWC", "colors": "BGR", "type": "uint8", "range": [0, 255]}
    assert described == {"size": None, "bit_depth": None, **told}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "size"), [(None, None), (None, SIZE), ("fp16", SIZE), ("int8_ptq", None), ("int8_ptq", SIZE)]
)
def test_openvino_takes_frames(exported, compression, size):
    """An export by the engine scores frames as the plain export of its precision does, in Model API, too."""
    arguments = {} if size is None else {"input_size": size}
    image = colored_bytes(size or (100, 150))
    frame = np.ascontiguousarray(image[..., ::-1])
    expected = openvino.compile_model(exported("openvino", compression, **arguments), "CPU", FP32)(as_input(image))
    path = exported("openvino", compression, **arguments, onnx_kwargs=Frozen(CAMERA))
    found = openvino.compile_model(path, "CPU", FP32)(frame[None])
    score = expected["pred_score"].item()
    assert found["pred_score"].item() == pytest.approx(score, abs=TOLERANCE)
    np.testing.assert_allclose(found["anomaly_map"], expected["anomaly_map"], atol=TOLERANCE)
    assert model_api(path)(frame).pred_score == pytest.approx(score, abs=TOLERANCE)


class Frozen(dict):
    """Arguments that can be the key of a cache."""

    def __hash__(self):
        return hash(tuple(self.items()))


@pytest.mark.parametrize("size", [(8, 8), (-1, -1)])
def test_frames_become_the_input(tmp_path, size):
    """A saved model takes bytes, and tells Model API that there is nothing left to do."""
    image = colored_bytes((8, 8))
    model = small_model(*size)
    keep_colors(model)
    expected = openvino.compile_model(model, "CPU", FP32)(as_input(image))["pred_score"]
    tell_model_api(model, 0.5, 0.5, takes_frames=True)
    openvino.save_model(take_frames_in_openvino(model), tmp_path / "model.xml", compress_to_fp16=False)
    saved = openvino.Core().read_model(tmp_path / "model.xml")
    assert saved.input().element_type == openvino.Type.u8
    assert saved.input().any_name == "input"
    found = openvino.compile_model(saved, "CPU", FP32)(image[None, ..., ::-1].copy())["pred_score"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    info = info_of(saved)
    assert info["embedded_processing"] == "YES"
    assert "scale_values" not in info
    assert (info.get("orig_height"), info.get("orig_width")) == (("8", "8") if size == (8, 8) else (None, None))


def test_sizes_are_kept_in_onnx(tmp_path):
    """Fixed lengths stay numbers, others names."""
    value = onnx.helper.make_tensor_value_info
    images, result = (value(name, onnx.TensorProto.FLOAT, ["batch", 3, 8, 6]) for name in ("input", "result"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["input"], ["result"])], "graph", [images], [result])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    take_frames_in_onnx(path)
    session = onnxruntime.InferenceSession(path)
    (frames,) = session.get_inputs()
    assert (frames.name, frames.type, frames.shape) == ("input", "tensor(uint8)", ["batch", 8, 6, 3])
    image = colored_bytes((8, 6))
    (found,) = session.run(None, {"input": image[None, ..., ::-1].copy()})
    np.testing.assert_array_equal(found, as_input(image))


@pytest.mark.parametrize("method", ["to_onnx", "to_openvino"])
def test_what_is_no_answer_is_refused(tmp_path, method):
    """Before anything is written."""
    with pytest.raises(ValueError, match="camera_input must be True or False, got 'yes'"):
        getattr(tiny_model(), method)(tmp_path, camera_input="yes")
    assert not list(tmp_path.iterdir())
