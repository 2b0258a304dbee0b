# SPDX-License-Identifier: Apache-2.0
"""What two models predict differently is counted."""

from copy import deepcopy

import pytest
import torch

from anomalib_vqflow.products import add_products, compare_models
from tests.tiny import tiny_model

from .conftest import NEW, OLD


def test_nothing_changes_for_known_products_when_one_is_added(model, data):
    """Only those that the earlier model knows are compared, by all their images. A few defects of a gear look new."""
    before = deepcopy(model)
    add_products(model, data(NEW[0]))
    of_cable, of_gear = compare_models(before, model, data(*OLD, *NEW))
    assert of_cable == ("cable", 36, 0, 0, 0.0, 0.0)
    assert (of_gear.product, of_gear.num_images, of_gear.now_normal) == ("gear", 36, 0)


def test_changes_of_scores_and_labels_are_counted(model, data):
    """Here the threshold moves, so that scores and labels do."""
    before, datamodule = deepcopy(model), data("gear")
    subsets = (datamodule.train_data, datamodule.test_data)
    images = torch.stack([item.image for subset in subsets for item in subset])
    model.post_processor._image_threshold.sub_(0.02)
    found, expected = before(images), model(images)
    (change,) = compare_models(before, model, datamodule)
    shift = expected.pred_score - found.pred_score
    assert change.now_anomalous == (expected.pred_label & ~found.pred_label).sum() > 0
    assert (change.product, change.num_images, change.now_normal) == ("gear", 36, 0)
    assert change.mean == pytest.approx(shift.mean().item(), abs=1e-6)
    assert change.largest == pytest.approx(shift.abs().max().item(), abs=1e-6)
    assert compare_models(model, before, datamodule)[0].now_normal == change.now_anomalous


def test_labels_without_a_threshold_are_unchanged(model, data):
    """Scores are compared still."""
    before = deepcopy(model)
    model.post_processor.reset_()
    assert compare_models(before, model, data("cable"))[0][2:4] == (0, 0)


def test_models_for_other_images_are_refused(model, data):
    """Their scores are those of other pixels."""
    with pytest.raises(ValueError, match="different sizes"):
        compare_models(model, tiny_model(input_size=32, evaluator=False), data("cable"))
