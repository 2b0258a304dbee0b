# SPDX-License-Identifier: Apache-2.0
"""Keys differ where maps may differ, and what may differ from reading to reading is refused."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from anomalib.data.datasets import MVTecADDataset
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, Resize

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.cache.identity import check, context_key, image_key
from tests.data.folders import make_image
from tests.tiny import tiny_data, tiny_model, tiny_root

FLIP = Compose([Resize((64, 64)), RandomHorizontalFlip()])


class OwnPreProcessor(PreProcessor):
    """A pre-processor that does something that nobody knows of."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.image = batch.image.flip(-1)


@pytest.fixture
def data(tmp_path):
    data = tiny_data(tiny_root(tmp_path / "products"))
    data.setup()
    return data


def key_of_model(precision="32-true", dtype="float16", prepare=None, **arguments):
    seed_everything(0)
    model = tiny_model(**arguments)
    if prepare is not None:
        prepare(model)
    return context_key(model, precision, dtype)


def change_weight(model):
    weight = next(model.model.features.parameters())
    with torch.no_grad():
        weight[0] = torch.nextafter(weight[0], torch.tensor(1.0))


def test_models_of_equal_features_share_maps():
    """What comes after the backbone does not matter, nor does another object with the same values."""
    other = {"num_concepts": 7, "flow_steps": (2, 1, 1), "lr": 1.0}

    def change_rest(model):
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.data += 1

    assert key_of_model() == key_of_model() == key_of_model(prepare=change_rest, **other)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prepare": change_weight},
        {"backbone": "test_convnext"},
        {"layers": [0, 2, 3]},
        {"semantic_level": False, "flow_steps": (1, 1)},
        {"detail_pooling": "none"},
        {"input_size": (64, 96)},
        {"tile_size": 64},
        {"pre_processor": PreProcessor(Compose([Resize((64, 64)), Normalize([0.5] * 3, [0.2] * 3)]))},
        {"pre_processor": False},
        {"precision": "bf16-mixed"},
        {"dtype": "bfloat16"},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_models_of_other_features_do_not(arguments):
    """A single bit of a weight suffices."""
    assert key_of_model(**arguments) != key_of_model()


@pytest.mark.parametrize("arguments", [{"prefix_tokens": True}, {"layers": [1, [2, 4], 5]}, {"flow_steps": (1, 1)}])
def test_other_tokens_or_blocks_do_not(arguments):
    """Although all weights are the same: those of a transformer up to its last block."""
    assert key_of_model(backbone="test_vit", layers=None) != key_of_model(backbone="test_vit", **arguments)


def test_another_version_of_a_library_does_not(monkeypatch):
    """A library may compute something else after an update."""
    before = key_of_model()
    monkeypatch.setattr(timm, "__version__", "0.0.0")

    assert key_of_model() != before


def test_copies_of_a_file_have_one_key(data):
    """Where a file lies does not matter, nor do its times."""
    before = [image_key(data.train_data, index) for index in range(2)]
    paths = [Path(path) for path in data.train_data.samples.image_path]
    shutil.copyfile(paths[0], paths[1])

    assert before[0] != before[1]
    assert image_key(data.train_data, 1) == before[0]


def rename(dataset):
    path = Path(dataset.samples.loc[0, "image_path"])
    dataset.samples.loc[0, "image_path"] = str(path.rename(path.with_suffix(".bmp")))


def change_pixel(dataset):
    path = Path(dataset.samples.loc[0, "image_path"])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def augment(dataset):
    dataset.by_category["bolt"].augmentations = Resize((8, 8))


def read_otherwise(dataset):
    dataset.by_category["bolt"].__class__ = MVTecADDataset


@pytest.mark.parametrize("change", [rename, change_pixel, augment, read_otherwise])
def test_other_images_and_other_ways_to_read_them_have_other_keys(data, change):
    """The suffix decides on the decoder."""
    before = image_key(data.train_data, 0)

    change(data.train_data)

    assert image_key(data.train_data, 0) != before


def test_what_is_the_same_at_every_reading_is_taken(data):
    """Also without a pre-processor, and with a transform in the dataset."""
    for model in (tiny_model(), tiny_model(pre_processor=False), tiny_model(pre_processor=PreProcessor(Resize(64)))):
        check(data, model)
    data.train_data.augmentations = Normalize([0.5] * 3, [0.2] * 3)
    check(data, tiny_model())


def test_augmentation_is_refused(data, tmp_path):
    """What may differ from epoch to epoch is refused, also if a single category does it, or the pre-processor."""
    words = "same in every epoch.*RandomHorizontalFlip"
    with pytest.raises(ValueError, match=words):
        check(data, tiny_model(pre_processor=PreProcessor(FLIP)))
    single = tiny_data(tmp_path / "products", categories="bolt", train_augmentations=FLIP)
    nut = tiny_data(tmp_path / "products", categories="nut")
    mixed = MultiCategory(datamodules=[nut, single], train_batch_size=4, num_workers=0)
    mixed.setup()
    with pytest.raises(ValueError, match=words):
        check(mixed, tiny_model())


def test_unknown_pre_processing_is_refused(data):
    """A pre-processor or a collate function of one's own may do anything."""
    with pytest.raises(ValueError, match="what OwnPreProcessor does"):
        check(data, tiny_model(pre_processor=OwnPreProcessor(Resize((64, 64)))))
    data.external_collate_fn = lambda items: items
    with pytest.raises(ValueError, match="what external_collate_fn does"):
        check(data, tiny_model())


def test_a_trainable_backbone_is_refused(data):
    """Maps that change from step to step cannot be cached."""
    model = tiny_model()
    model.model.features.requires_grad_(requires_grad=True)

    with pytest.raises(ValueError, match="frozen backbone"):
        check(data, model)


def test_data_that_is_not_one_file_per_item_is_refused(data):
    """A dataset that makes two items of a file has no key for them."""
    kind = type(data.train_data)
    data.train_data.__class__ = type("Twice", (kind,), {"__len__": lambda self: 2 * len(self.samples)})
    with pytest.raises(TypeError, match="one image file per item"):
        check(data, tiny_model())

    del data.train_data
    with pytest.raises(TypeError, match="one image file per item"):
        check(data, tiny_model())


def test_a_missing_file_is_an_error(data):
    """There is no key for what is not there."""
    make_image(path := Path(data.train_data.samples.image_path[0]), 60)
    path.unlink()

    with pytest.raises(FileNotFoundError, match=path.name):
        image_key(data.train_data, 0)
