# SPDX-License-Identifier: Apache-2.0
"""Checkpoints load without network, and a broken model overwrites none."""

from copy import deepcopy

import pytest
import timm
import torch
from torch.testing import assert_close

from anomalib.models import VQFlow


def test_a_checkpoint_holds_the_backbone(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded model predicts as the saved one, and timm is not asked for weights."""
    model, _, path = trained
    create_model = timm.create_model

    def without_network(name: str, *, pretrained: bool = False, **arguments: object) -> torch.nn.Module:
        assert not pretrained
        return create_model(name, pretrained=pretrained, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    loaded = VQFlow.load_from_checkpoint(path, evaluator=False, visualizer=False).eval()
    images = torch.rand(2, 3, 64, 64)
    expected, found = model.eval()(images), loaded(images)
    assert_close(found.anomaly_map, expected.anomaly_map)
    assert_close(found.pred_score, expected.pred_score)


def test_pre_trained_is_not_asked_for_again(trained: tuple) -> None:
    """Also a model that was built with weights of its backbone saves that it needs none."""
    model = trained[0]
    checkpoint = {"hyper_parameters": {"pre_trained": True}}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["pre_trained"] is False


def test_a_broken_model_is_not_saved(trained: tuple) -> None:
    """The error names a weight that is not finite."""
    model = deepcopy(trained[0])
    name, weight = next((n, p) for n, p in model.model.named_parameters() if p.requires_grad)
    weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        model.on_save_checkpoint({"hyper_parameters": {}})
