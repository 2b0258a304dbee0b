# SPDX-License-Identifier: Apache-2.0
"""Thresholds of concepts are exported, and are those of the model."""

from copy import deepcopy

import pytest
import torch
from anomalib.deploy import OpenVINOInferencer

from .predictions import FP32, check_equal, some_images


@pytest.mark.parametrize("suffix", ["xml", "onnx"])
def test_each_concept_has_its_threshold(model, tmp_path, onnx_steps, suffix):
    """An export shifts scores and maps as the model does, and shifts those of two concepts differently."""
    model, images = deepcopy(model), some_images(4, (64, 64))
    with torch.no_grad():
        plain, post = model(images), model.post_processor
    used = plain.concept.unique()
    assert len(used) > 1
    generator = torch.Generator().manual_seed(0)
    concepts = used.repeat(200)
    lowest, highest = torch.stack((post.image_min, post.pixel_min)), torch.stack((post.image_max, post.pixel_max))
    spread = (1 + concepts / 10)[:, None] * (highest - lowest)
    scores = lowest + torch.rand(len(concepts), 2, generator=generator) * spread
    post.normal_scores = torch.cat((scores, concepts[:, None]), dim=1)
    post.set_false_alarm_rate(0.1)
    assert len(post.image_offsets[used].unique()) == len(used)

    with onnx_steps():
        path = (model.to_onnx if suffix == "onnx" else model.to_openvino)(tmp_path)

    with torch.no_grad():
        expected = model(images)
    check_equal(OpenVINOInferencer(path, device="CPU", config=FP32).predict(images), expected)
    assert not torch.allclose(expected.pred_score, plain.pred_score)
