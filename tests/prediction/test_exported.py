# SPDX-License-Identifier: Apache-2.0
"""Exported models are compiled for single images, in float32, and tell what they know."""

from pathlib import Path

import numpy as np
import openvino
import pytest

from anomalib_vqflow.prediction.exported import ExportedModel
from anomalib_vqflow.prediction.predictions import ModelError

from .toys import save, write_toy


def test_the_model_computes_in_float32_for_one_image(toy):
    """Scores are those of the training by default, and sizes inside of the model are known."""
    compiled = ExportedModel(toy).compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.output("pred_score").get_partial_shape() == openvino.PartialShape([1])


def test_arguments_reach_openvino(toy):
    """A number of threads, and a device that chooses among others."""
    assert ExportedModel(toy, num_threads=1).compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert ExportedModel(toy, device="AUTO").tells_concept is False


@pytest.mark.parametrize("precision", ["f32", "FP32", "undefined"])
def test_no_word_of_a_precision_that_the_device_has(toy, precision, recwarn):
    """By any name of OpenVINO's, and where it may choose."""
    ExportedModel(toy, precision=precision)
    assert not recwarn.list


def test_another_precision_is_computed_in_or_said_to_be_impossible(toy, recwarn):
    """As many CPUs have no bfloat16, in whose place OpenVINO silently takes float32."""
    can = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = ExportedModel(toy, precision="bf16").compiled
    used = openvino.Type.bf16 if can else openvino.Type.f32
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == used
    told = [str(warning.message) for warning in recwarn]
    sentence = "Device CPU cannot compute in bf16; it computes in f32, and scores and speed are those."
    assert told == ([] if can else [sentence])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("threshold", [0.25, None])
def test_the_threshold_is_that_of_the_model(tmp_path, threshold, half):
    """Which an ``image_sensitivity`` moves; of FP16 models, too."""
    save(tmp_path / "a.png", "L", 102, (20, 10))
    model = ExportedModel(write_toy(tmp_path / "m.xml", threshold=threshold, half=half))
    found = model.start(model.read(tmp_path / "a.png"))()
    assert found.threshold == threshold
    assert found.label == (None if threshold is None else True)
    assert (found.mask is None) == (threshold is None)
    np.testing.assert_allclose(found.anomaly_map, np.full((10, 20), 0.4), atol=1e-3)


def test_predictions_are_kept_when_requests_are_used_again(toy, tmp_path):
    """They hold copies."""
    model, found = ExportedModel(toy), []
    for value in (51, 102, 204):
        save(tmp_path / f"{value}.png", "L", value, (20, 10))
        found.append(model.start(model.read(tmp_path / f"{value}.png"))())
    assert [prediction.anomaly_map.max() for prediction in found] == pytest.approx([0.2, 0.4, 0.8])


@pytest.mark.parametrize("name", ["no.xml", "no.onnx"])
def test_files_that_are_no_models_are_refused(tmp_path, name):
    """By their names."""
    (tmp_path / name).write_text("no model")
    with pytest.raises(ModelError, match=rf"OpenVINO cannot load \S*{name} for device CPU and precision f32"):
        ExportedModel(tmp_path / name)


def test_other_models_are_refused(tmp_path):
    """Such as lack a map."""
    path = write_toy(Path(tmp_path / "m.xml"), drop=("anomaly_map",))
    with pytest.raises(ModelError, match=r"m\.xml has no outputs pred_score and anomaly_map"):
        ExportedModel(path)
