# SPDX-License-Identifier: Apache-2.0
import pytest
from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.data.synthetic import SetArguments
from anomalib_vqflow.data.synthetic.dataset import write_category
from anomalib_vqflow.sources import set_up
from tests.tiny import tiny_data, tiny_engine, tiny_model

OLD, NEW = ("cable", "gear"), ("fabric", "plank")
"""Products of the training, and those that come after it."""


def seeing_model(**arguments):
    """A model that sees something in images."""
    return tiny_model(backbone="vqflow_tiny", pre_trained=True, use_whitening=True, lr=1e-3, **arguments)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """All products, 64 x 64 pixels."""
    root = tmp_path_factory.mktemp("products")
    for name in (*OLD, *NEW):
        write_category(root / name, name, SetArguments(64, 16, 4, 4, seed=0))
    return root


@pytest.fixture(scope="session")
def checkpoint(root, tmp_path_factory):
    """A model of the old ones."""
    seed_everything(0)
    model = seeing_model()
    engine = tiny_engine(tmp_path_factory.mktemp("run"), max_epochs=12)
    engine.fit(model, datamodule=tiny_data(root, categories=list(OLD)))
    return engine.trainer.checkpoint_callback.best_model_path


@pytest.fixture
def model(checkpoint):
    """It, loaded."""
    return VQFlow.load_from_checkpoint(checkpoint, map_location="cpu")


@pytest.fixture
def data(root, model):
    """Products, set up, for the model."""

    def set_up_products(*names):
        datamodule = tiny_data(root, categories=list(names))
        set_up(datamodule, model, subsets=["train"])
        return datamodule

    return set_up_products
