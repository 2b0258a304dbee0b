# SPDX-License-Identifier: Apache-2.0
import pytest
from anomalib.data.utils import Split

from anomalib_vqflow.data.category_folder import CategoryFolder, CategoryFolderDataset, read_category

from .folders import make_category, make_image


def test_masks_may_be_named_like_their_image(tmp_path):
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/000_mask.png").rename(category / "ground_truth/hole/000.png")

    samples = read_category(category, Split.TEST)

    masks = samples[samples.label_index == 1].mask_path.tolist()
    assert masks == [str(category / "ground_truth/hole/000.png"), str(category / "ground_truth/hole/001_mask.png")]
    assert (samples[samples.label_index == 0].mask_path == "").all()


def test_missing_mask_is_named(tmp_path):
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/001_mask.png").unlink()

    with pytest.raises(ValueError, match=r"nut/test/hole/001\.png.*add .*ground_truth/hole/001_mask\.png"):
        CategoryFolder(category).setup()


def test_two_masks_of_one_image_are_named(tmp_path):
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/001.png").write_bytes((category / "ground_truth/hole/001_mask.png").read_bytes())

    with pytest.raises(ValueError, match=r"001\.png'.*001_mask\.png'"):
        CategoryFolder(category).setup()


def test_category_without_masks_has_none_in_test_and_empty_ones_in_training(tmp_path):
    category = make_category(tmp_path, "nut", masks=False)

    assert CategoryFolderDataset(category, "test")[0].gt_mask is None
    assert not CategoryFolderDataset(category, "train")[0].gt_mask.any()


def test_other_files_are_passed_over(tmp_path):
    category = make_category(tmp_path, "nut")
    (category / "train/good/Thumbs.db").write_bytes(b"x")
    (category / "train/good/._000.png").write_bytes(b"x")
    (category / "test/notes.txt").write_text("x")
    make_image(category / "train/good/004.JPG", 60)

    assert len(read_category(category, Split.TRAIN)) == 5
    assert len(read_category(category, Split.TEST)) == 4


def test_training_images_become_test_images_if_there_are_none(tmp_path):
    category = make_category(tmp_path, "nut", train=10, good=0, defect=0)

    datamodule = CategoryFolder(category, test_split_ratio=0.2, seed=0)
    datamodule.setup()

    assert (len(datamodule.train_data), len(datamodule.test_data)) == (8, 2)


def test_no_normal_training_images_raise(tmp_path):
    category = make_category(tmp_path, "nut", train=0)

    with pytest.raises(ValueError, match=r"'nut' has no normal training images.*nut/train/good"):
        CategoryFolder(category).setup()
