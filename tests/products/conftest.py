# SPDX-License-Identifier: Apache-2.0
import pytest
from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.data.synthetic import SetArguments
from anomalib_vqflow.data.synthetic.dataset import write_category
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.sources import set_up
from tests.tiny import tiny_data, tiny_engine, tiny_model

OLD, NEW = ("cable", "gear"), ("fabric", "plank")
"""Products of the training, and those that come after it."""


SIZE = (128, 128)
"""Height and width of their images in pixels: the coarsest maps have 4 x 4 cells."""


def seeing_model():
    """A model that sees something in images, with a threshold that lies above most normal ones."""
    post_processor = SeparatingPostProcessor(false_alarm_rate=0.1)
    trained = {"backbone": "vqflow_tiny", "pre_trained": True, "use_whitening": True, "lr": 1e-3}
    return tiny_model(**trained, input_size=SIZE, post_processor=post_processor)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """All products; the old ones with as many normal test images as a threshold by rate takes."""
    root = tmp_path_factory.mktemp("products")
    for name in (*OLD, *NEW):
        write_category(root / name, name, SetArguments(SIZE[0], 16, 16 if name in OLD else 4, 4, seed=0))
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
