# SPDX-License-Identifier: Apache-2.0
"""Exported models give what the model gives, and no more than anomalib's inferencers know."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anomalib.data import InferenceBatch
from anomalib.deploy import OpenVINOInferencer


@pytest.mark.parametrize("input_size", [None, (64, 64)])
def test_openvino_gives_what_the_model_gives(
    trained: tuple, tmp_path: Path, input_size: tuple[int, int] | None
) -> None:
    """Scores and maps of images that need no resizing are equal, of any size and of one size only."""
    openvino = pytest.importorskip("openvino")
    model = trained[0]
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = model.to_openvino(tmp_path, input_size=input_size)
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = {output.any_name for output in compiled.outputs}
    assert outputs <= set(InferenceBatch._fields)
    expected = model.eval()(images)
    for image, score, anomaly_map in zip(images, expected.pred_score, expected.anomaly_map, strict=True):
        found = compiled(image[None].numpy())
        assert_close(torch.from_numpy(found["pred_score"]).flatten(), score[None], atol=1e-4, rtol=1e-4)
        assert_close(torch.from_numpy(found["anomaly_map"])[0], anomaly_map, atol=1e-4, rtol=1e-4)


def test_inferencer_reads_an_export(trained: tuple, tmp_path: Path) -> None:
    """OpenVINOInferencer, which fails at outputs that it does not know, predicts."""
    pytest.importorskip("openvino")
    path = trained[0].to_openvino(tmp_path, input_size=(64, 64))
    prediction = OpenVINOInferencer(path).predict(torch.rand(3, 64, 64).permute(1, 2, 0).numpy())
    assert prediction.anomaly_map.shape[-2:] == (64, 64)


def test_predictions_stay_after_an_export(trained: tuple, tmp_path: Path) -> None:
    """Tables that were constants of the export are none of the model."""
    model = trained[0]
    images = torch.rand(1, 3, 64, 64)
    before = model.eval()(images)
    model.to_onnx(tmp_path, input_size=(64, 64))
    assert_close(model(images).anomaly_map, before.anomaly_map)
