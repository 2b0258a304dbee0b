# SPDX-License-Identifier: Apache-2.0
"""A training that had ended goes on with more products."""

import pytest
import torch
from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.products import compare_models
from anomalib_vqflow.sources import set_up
from tests.tiny import tiny_data, tiny_engine

from .conftest import NEW, OLD, seeing_model


@pytest.fixture(scope="module")
def later(checkpoint, root, tmp_path_factory):
    """The model of the old products, trained on with all of them."""
    seed_everything(0)
    engine = tiny_engine(tmp_path_factory.mktemp("later"), max_epochs=18)
    later = seeing_model()
    engine.fit(later, datamodule=tiny_data(root), ckpt_path=checkpoint)
    return VQFlow.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path, map_location="cpu")


@pytest.mark.parametrize("product", NEW)
def test_new_products_are_learned(later, model, data, product):
    """Their normal images were foreign to the earlier model, and are less so now."""
    images = torch.stack([item.image for item in data(product).train_data])
    with torch.no_grad():
        before, now = (of_model(images).pred_score.mean() for of_model in (model, later))
    assert before > 0.9
    assert now < before - 0.1
    assert product in later.product_counts


def test_what_changed_for_old_products_is_told(later, model, root):
    """Scores are other ones, for they were trained on; images are counted by product."""
    datamodule = tiny_data(root)
    set_up(datamodule, later)
    changes = compare_models(model, later, datamodule)
    assert [change.product for change in changes] == [*OLD]
    assert all(change.largest > 0 for change in changes)
