# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageItem
from torchvision.transforms.v2 import Resize

from anomalib_vqflow.data.category_folder import CategoryFolderDataset
from anomalib_vqflow.data.multi_category_dataset import MultiCategoryDataset, collate

from .folders import make_category


@pytest.fixture
def dataset(tmp_path):
    make_category(tmp_path, "nut", size=(32, 32))
    make_category(tmp_path, "bolt", masks=False, size=(48, 20), mode="L")
    return MultiCategoryDataset({name: CategoryFolderDataset(tmp_path / name, "test") for name in ("nut", "bolt")})


def item(label=None, mask=True, size=8):
    gt_mask = torch.ones(size, size, dtype=torch.bool) if mask else None
    return ImageItem(image=torch.zeros(3, size, size), gt_mask=gt_mask, gt_label=label)


def test_items_are_those_of_the_categories(dataset):
    """Each index gives the image, label and mask of its row."""
    assert len(dataset) == 8
    for index, sample in dataset.samples.iterrows():
        read = dataset[index]
        assert read.image_path == sample.image_path
        assert read.gt_label.item() == ("hole" in sample.image_path)
        assert (read.gt_mask is None) == (sample.category == "bolt")


def test_subset_still_reads_the_right_images(dataset):
    """A subset in another order reads the images that its rows name."""
    subset = dataset.subsample([6, 1, 3])

    assert [subset[index].image_path for index in range(3)] == subset.samples.image_path.tolist()


def test_transform_reaches_all_parts_and_masks(dataset):
    """Setting a transform changes images of every category and their masks."""
    dataset.augmentations = Resize((16, 24))

    assert {tuple(dataset[index].image.shape) for index in range(8)} == {(3, 16, 24)}
    assert dataset[0].gt_mask.shape == (16, 24)


def test_images_of_different_size_and_masks_share_a_batch(dataset):
    """Images of different size share a batch, without masks where one of them is unknown."""
    batch = dataset.collate_fn([dataset[index] for index in range(8)])

    assert batch.image.shape == (8, 3, 20, 48)
    assert batch.gt_mask is None, "the masks of anomalous bolts are unknown"


def test_only_normal_images_without_masks_get_empty_ones():
    """A lacking mask becomes empty for normal images only, and only where others have masks."""
    batch = collate([item(1), item(0, mask=False)])
    assert batch.gt_mask.sum((1, 2)).tolist() == [64, 0]

    assert collate([item(1), item(1, mask=False)]).gt_mask is None
    assert collate([item(0, mask=False), item(0, mask=False)]).gt_mask is None


def test_unlabelled_image_makes_an_unlabelled_batch():
    """One image of unknown label leaves its batch without labels and masks."""
    batch = collate([item(1), item(None, mask=False)])

    assert batch.gt_label is None
    assert batch.gt_mask is None


def test_images_with_and_without_masks_are_in_groups_of_their_own(dataset):
    """Categories with and without masks do not share a group."""
    groups = dict(zip(dataset.samples.category, dataset.batch_groups(), strict=True))

    assert groups["nut"] != groups["bolt"]


def test_file_that_breaks_while_reading_is_named(dataset):
    """An image that cannot be decoded is named with its path."""
    path = Path(dataset.samples.image_path[5])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    with pytest.raises(ValueError, match=r"Cannot read the image .*bolt/test/.*Replace or remove"):
        dataset[5]


def test_no_parts_raise():
    """A dataset of no categories is refused."""
    with pytest.raises(ValueError, match="at least one dataset"):
        MultiCategoryDataset({})
