# SPDX-License-Identifier: Apache-2.0
import pytest
from anomalib.data.utils import Split

from anomalib_vqflow.data.category_folder import CategoryFolder, CategoryFolderDataset, read_category

from .folders import make_category, make_image


def test_masks_may_be_named_like_their_image(tmp_path):
    """A mask is found with and without `_mask` in its name, and normal images have none."""
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/000_mask.png").rename(category / "ground_truth/hole/000.png")

    samples = read_category(category, Split.TEST)

    masks = samples[samples.label_index == 1].mask_path.tolist()
    assert masks == [str(category / "ground_truth/hole/000.png"), str(category / "ground_truth/hole/001_mask.png")]
    assert (samples[samples.label_index == 0].mask_path == "").all()


def test_missing_mask_is_named(tmp_path):
    """An anomalous image without its mask is refused, with the path where the mask should be."""
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/001_mask.png").unlink()

    with pytest.raises(ValueError, match=r"nut/test/hole/001\.png.*add .*ground_truth/hole/001_mask\.png"):
        CategoryFolder(category).setup()


def test_two_masks_of_one_image_are_named(tmp_path):
    """An anomalous image with two masks is refused, with the paths of both."""
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/001.png").write_bytes((category / "ground_truth/hole/001_mask.png").read_bytes())

    with pytest.raises(ValueError, match=r"001\.png'.*001_mask\.png'"):
        CategoryFolder(category).setup()


def test_category_without_masks_has_none_in_test_and_empty_ones_in_training(tmp_path):
    """Without `ground_truth`, test items lack a mask, and normal training items have an empty one."""
    category = make_category(tmp_path, "nut", masks=False)

    assert CategoryFolderDataset(category, "test")[0].gt_mask is None
    assert not CategoryFolderDataset(category, "train")[0].gt_mask.any()


def test_other_files_are_passed_over(tmp_path):
    """Hidden files and files that are no images are not taken for images; upper-case suffixes are images."""
    category = make_category(tmp_path, "nut")
    (category / "train/good/Thumbs.db").write_bytes(b"x")
    (category / "train/good/._000.png").write_bytes(b"x")
    (category / "test/notes.txt").write_text("x")
    make_image(category / "train/good/004.JPG", 60)

    assert len(read_category(category, Split.TRAIN)) == 5
    assert len(read_category(category, Split.TEST)) == 4


def test_training_images_become_test_images_if_there_are_none(tmp_path):
    """A category without a test folder tests on a share of its training images."""
    category = make_category(tmp_path, "nut", train=10, good=0, defect=0)

    datamodule = CategoryFolder(category, test_split_ratio=0.2, seed=0)
    datamodule.setup()

    assert (len(datamodule.train_data), len(datamodule.test_data)) == (8, 2)


def test_no_normal_training_images_raise(tmp_path):
    """A category without normal training images is refused, with the folder where they belong."""
    category = make_category(tmp_path, "nut", train=0)

    with pytest.raises(ValueError, match=r"'nut' has no normal training images.*nut/train/good"):
        CategoryFolder(category).setup()


@pytest.mark.parametrize("defect", [0, 2])
@pytest.mark.parametrize("masks", [True, False])
def test_items_have_masks_as_their_category_where_normal_test_images_are_missing(tmp_path, defect, masks):
    """Test images taken from the training images have masks exactly if the category has."""
    category = make_category(tmp_path, "nut", masks=masks, train=10, good=0, defect=defect)

    datamodule = CategoryFolder(category, test_split_ratio=0.2, seed=0, num_workers=0)
    datamodule.setup()

    items = [datamodule.test_data[index] for index in range(len(datamodule.test_data))]
    assert sum(bool(item.gt_label) for item in items) == defect
    assert len(items) == 2 + defect
    assert all((item.gt_mask is not None) == (masks and defect > 0) for item in items)
