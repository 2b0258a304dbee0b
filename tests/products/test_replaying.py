# SPDX-License-Identifier: Apache-2.0
"""A training that had ended goes on with more products."""

from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.products import compare_models
from anomalib_vqflow.sources import set_up
from tests.tiny import tiny_data, tiny_engine, tiny_model

from .conftest import NEW, OLD


def train(root, folder, products, max_epochs, checkpoint=None):
    """Train a model that keeps codes free, or go on; its checkpoint."""
    arguments = {"backbone": "vqflow_tiny", "pre_trained": True, "use_whitening": True, "num_concepts": 8}
    model = tiny_model(**arguments, lr=1e-3, lr_schedule="cosine", concept_novelty=0.5)
    engine = tiny_engine(folder, max_epochs=max_epochs)
    engine.fit(model, datamodule=tiny_data(root, categories=list(products)), ckpt_path=checkpoint)
    return engine.trainer.checkpoint_callback.best_model_path


def test_new_products_get_free_concepts(root, tmp_path):
    """Of their own; what changed for the old ones is counted."""
    seed_everything(0)
    checkpoint = train(root, tmp_path / "before", OLD, max_epochs=4)
    later = train(root, tmp_path / "after", (*OLD, *NEW), max_epochs=8, checkpoint=checkpoint)
    before, after = (VQFlow.load_from_checkpoint(path, map_location="cpu") for path in (checkpoint, later))

    main_concepts = {name: counts.index(max(counts)) for name, counts in after.product_counts.items()}
    assert {*main_concepts} == {*OLD, *NEW}
    assert len({*main_concepts.values()}) == 4
    datamodule = tiny_data(root)
    set_up(datamodule, after)
    changes = compare_models(before, after, datamodule)
    assert [change.product for change in changes] == [*OLD]
    assert all(change.largest > 0 for change in changes)
