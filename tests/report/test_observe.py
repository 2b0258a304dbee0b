# SPDX-License-Identifier: Apache-2.0
"""Scores with and without concept calibration, from one forward pass."""

import pytest
import torch

from anomalib_vqflow import VQFlowModel
from anomalib_vqflow.pictures.observe import Observer
from tests.tiny import ARGUMENTS


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VQFlowModel((64, 64), **ARGUMENTS)
    model(torch.rand(4, 3, 64, 64))
    return model.eval()


def calibrate(model):
    calibration = model.anomaly_map_generator.calibration
    calibration.location.fill_(0.7)
    calibration.scale.fill_(2.0)
    calibration.fitted.fill_(value=True)


@torch.no_grad()
def test_plain_scores_are_those_before_calibration(model):
    """A calibrated model's plain scores are what it gave before, and differ from those it gives now."""
    images = torch.rand(3, 3, 64, 64)
    before = model(images).pred_score
    calibrate(model)
    with Observer(model) as observer:
        after = model(images).pred_score
        plain = observer.plain_scores(after)
    assert torch.equal(plain, before)
    assert not torch.isclose(after, before).any()


@torch.no_grad()
def test_no_calibration_no_plain_scores(model):
    """A model that is not calibrated, or whose map knows no calibration, has no plain scores."""
    images = torch.rand(3, 3, 64, 64)
    with Observer(model) as observer:
        assert observer.plain_scores(model(images).pred_score).isnan().all()
    calibrate(model)
    model.anomaly_map_generator.score_map = "additive"
    with Observer(model) as observer:
        assert observer.plain_scores(model(images).pred_score).isnan().all()


@torch.no_grad()
def test_hooks_are_removed(model):
    """After observing, the model is as it was: nothing is kept any more."""
    with Observer(model) as observer:
        model(torch.rand(3, 3, 64, 64))
    indices, _ = observer.concepts()
    model(torch.rand(1, 3, 64, 64))
    assert len(observer.concepts()[0]) == len(indices) == 3
