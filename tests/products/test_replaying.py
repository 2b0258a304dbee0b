# SPDX-License-Identifier: Apache-2.0
"""A training that had ended goes on with more products."""

from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.products import compare_models
from anomalib_vqflow.sources import set_up
from tests.tiny import tiny_data, tiny_engine, tiny_model

from .conftest import NEW, OLD


def test_new_products_are_learned_beside_the_old_ones(checkpoint, model, root, tmp_path):
    """They do not share the concepts of old ones; what changed for these is counted."""
    seed_everything(0)
    datamodule, engine = tiny_data(root), tiny_engine(tmp_path, max_epochs=18)
    later = tiny_model(backbone="vqflow_tiny", pre_trained=True, use_whitening=True, lr=1e-3)
    engine.fit(later, datamodule=datamodule, ckpt_path=checkpoint)

    later = VQFlow.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path, map_location="cpu")
    concepts = {name: counts.index(max(counts)) for name, counts in later.product_counts.items()}
    assert {*concepts} == {*OLD, *NEW}
    assert not {concepts[name] for name in OLD} & {concepts[name] for name in NEW}
    set_up(datamodule, later)
    changes = compare_models(model, later, datamodule)
    assert [change.product for change in changes] == [*OLD]
    assert all(change.largest > 0 for change in changes)
