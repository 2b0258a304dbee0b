# SPDX-License-Identifier: Apache-2.0
"""Images of any sizes come in one size."""

import pytest
import torch
from anomalib.data import Folder
from torch.testing import assert_close
from torchvision.transforms.v2 import RandomGrayscale, Resize

from anomalib_vqflow.data.resize import resize_images
from tests.tiny import tiny_data

from .folders import make_category

SIZE = (24, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two categories of different image sizes, one without masks."""
    root = tmp_path_factory.mktemp("sizes")
    make_category(root, "bolt", size=(150, 100))
    make_category(root, "nut", size=(40, 48), masks=False)
    return root


def one_category(root):
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/hole", "mask_dir": "ground_truth/hole"}
    return Folder("bolt", root=root / "bolt", **folders, train_batch_size=4, eval_batch_size=4, num_workers=0)


def sizes(datamodule):
    loaders = (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader())
    return {tuple(batch.image.shape[2:]) for loader in loaders for batch in loader}


@pytest.mark.parametrize("make", [tiny_data, one_category])
def test_all_images_have_the_size_until_the_next_setup(root, make):
    """Training, validation and test images of several categories or one; a setup puts everything back."""
    datamodule = make(root)
    datamodule.setup()
    before = sizes(datamodule)
    assert before != {SIZE}
    resize_images(datamodule, SIZE)
    assert sizes(datamodule) == {SIZE}
    datamodule.setup()
    assert sizes(datamodule) == before


def test_images_and_masks_are_those_of_a_training(root):
    """Images and masks equal, to the bit, what a datamodule with augmentations of that size gives."""
    datamodule, expected = tiny_data(root), tiny_data(root, augmentations=Resize(SIZE, antialias=True))
    datamodule.setup()
    expected.setup()
    resize_images(datamodule, SIZE)
    for actual, batch in zip(datamodule.test_dataloader(), expected.test_dataloader(), strict=True):
        assert actual.image_path == batch.image_path
        assert_close(actual.image, batch.image, rtol=0, atol=0)
        assert (actual.gt_mask is None) == (batch.gt_mask is None)
        if batch.gt_mask is not None:
            assert torch.equal(actual.gt_mask, batch.gt_mask)


def test_augmentations_of_the_datamodule_stay(root):
    """What the user asked for happens, and before the resizing."""
    datamodule = tiny_data(root, test_augmentations=RandomGrayscale(p=1))
    datamodule.setup()
    resize_images(datamodule, SIZE)
    (batch, *_) = datamodule.test_dataloader()
    assert batch.image.shape[2:] == SIZE
    assert torch.equal(batch.image[:, 0], batch.image[:, 1])
    (batch, *_) = datamodule.train_dataloader()
    assert not torch.equal(batch.image[:, 0], batch.image[:, 1])
