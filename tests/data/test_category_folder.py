# SPDX-License-Identifier: Apache-2.0
import warnings

import pytest

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data.category_folder import CategoryFolder, CategoryFolderDataset

from .folders import make_category, make_image, make_mask


def test_masks_may_be_named_like_their_image(tmp_path):
    """A mask is found with and without `_mask` in its name, and normal images have none."""
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/000_mask.png").rename(category / "ground_truth/hole/000.png")

    samples = CategoryFolderDataset(category, "test").samples

    masks = samples[samples.label_index == 1].mask_path.tolist()
    assert masks == [str(category / "ground_truth/hole/000.png"), str(category / "ground_truth/hole/001_mask.png")]
    assert (samples[samples.label_index == 0].mask_path == "").all()


def test_missing_mask_is_named(tmp_path):
    """An anomalous image without its mask is refused, with the path where the mask should be."""
    category = make_category(tmp_path, "nut")
    (category / "ground_truth/hole/001_mask.png").unlink()

    with pytest.raises(ValueError, match=r"nut/test/hole/001\.png.*add .*ground_truth/hole/001_mask\.png"):
        CategoryFolder(category).setup()


def test_several_masks_of_an_image_are_united(tmp_path):
    """An item has all masks of its image, whether they lie beside each other or in a folder."""
    category = make_category(tmp_path, "nut", defect=3)
    for name in ("000", "001"):
        make_mask(category / f"ground_truth/hole/{name}_2.png", corner=20)
        make_mask(category / f"ground_truth/hole/{name}/7.png", corner=26)
    datamodule = MultiCategory(tmp_path, num_workers=0)
    datamodule.setup()

    items = [item for item in datamodule.test_data if item.gt_label]

    assert [int(item.gt_mask.sum()) for item in items] == [*[64 + 64 + 36 - 4] * 2, 64]


def test_category_without_masks_has_none_in_test_and_empty_ones_in_training(tmp_path):
    """Without `ground_truth`, test items lack a mask, and normal training items have an empty one."""
    category = make_category(tmp_path, "nut", masks=False)

    assert CategoryFolderDataset(category, "test")[0].gt_mask is None
    assert not CategoryFolderDataset(category, "train")[0].gt_mask.any()


def test_what_is_not_read_is_named_once(tmp_path):
    """A datamodule warns once of what it finds but does not use; a well-formed category has no warning."""
    category = make_category(tmp_path, "nut")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CategoryFolder(category).setup()
    make_image(category / "train/scratch/000.png", 60)

    with pytest.warns(UserWarning, match=r"Not used in category 'nut': .*not normal.*nut/train/scratch\.") as warned:
        CategoryFolder(category).setup()

    assert len(warned) == 1


def test_training_images_become_test_images_if_there_are_none(tmp_path):
    """A category without a test folder tests on a share of its training images."""
    category = make_category(tmp_path, "nut", train=10, good=0, defect=0)

    datamodule = CategoryFolder(category, test_split_ratio=0.2, seed=0)
    with pytest.warns(UserWarning, match="'nut' has no normal test images .*none.; 2 of 10 training images are used"):
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


def labels(data):
    """List the labels of all items, and which of them have a mask."""
    return [(int(item.gt_label), item.gt_mask is not None) for item in (data[index] for index in range(len(data)))]


def test_folder_named_like_no_normal_images_is_named(tmp_path):
    """Where all test images are anomalous going by their folders, these are named."""
    category = make_category(tmp_path, "nut", train=10, masks=False)
    (category / "test/good").rename(category / "test/gut")

    with pytest.warns(UserWarning, match=r"no normal test images \(.*gut, hole\); 2 of 10"):
        CategoryFolder(category).setup()


@pytest.mark.parametrize("name", ["Good", "OK", "normal", "Pass"])
@pytest.mark.parametrize("masks", [True, False])
def test_other_names_of_normal_images_change_nothing(tmp_path, name, masks):
    """A category with another name of `good` in all splits has the same images, labels and masks."""
    plain = make_category(tmp_path / "plain", "nut", masks=masks)
    other = make_category(tmp_path / "other", "nut", masks=masks)
    for split in ("train", "test"):
        (other / split / "good").rename(other / split / name)

    for split in ("train", "test"):
        assert sorted(labels(CategoryFolderDataset(plain, split))) == sorted(
            labels(CategoryFolderDataset(other, split))
        )


def make_validation(category, folder="val", masks=True):
    make_image(category / folder / "good/000.png", 60)
    make_image(category / folder / "hole/v00.png", 150)
    if masks:
        make_mask(category / "ground_truth/hole/v00_mask.png")


@pytest.mark.parametrize("folder", ["val", "Validation", "valid"])
@pytest.mark.parametrize("mode", [None, "from_dir"])
def test_own_validation_images_are_used(tmp_path, folder, mode):
    """A folder of validation images is the validation set, beside unchanged training and test images."""
    category = make_category(tmp_path, "nut")
    make_validation(category, folder)

    datamodule = CategoryFolder(category, val_split_mode=mode)
    datamodule.setup()

    assert labels(datamodule.val_data) == [(0, True), (1, True)]
    assert all(f"/{folder}/" in path for path in datamodule.val_data.samples.image_path)
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (4, 4)


def test_validation_images_may_lack_masks(tmp_path):
    """Masks of test images do not oblige validation images to have some."""
    category = make_category(tmp_path, "nut")
    make_validation(category, masks=False)

    datamodule = CategoryFolder(category)
    datamodule.setup()

    assert labels(datamodule.val_data) == [(0, False), (1, False)]
    assert all(has_mask for _, has_mask in labels(datamodule.test_data))


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_test", "from_train", "synthetic"])
def test_validation_images_that_are_not_used_are_named(tmp_path, mode):
    """Another mode is kept, and a warning names it and the images."""
    category = make_category(tmp_path, "nut")
    make_validation(category)

    datamodule = CategoryFolder(category, val_split_mode=mode, seed=0)
    with pytest.warns(UserWarning, match=rf"2 validation images of category 'nut' .*'{mode}'.*val/good/000\.png"):
        datamodule.setup()

    assert not any("/val/" in path for path in getattr(datamodule, "val_data", datamodule.test_data).samples.image_path)


def test_validation_from_a_missing_folder_raises(tmp_path):
    """`from_dir` without a folder of validation images is refused, with the folder and the modes that there are."""
    category = make_category(tmp_path, "nut")

    with pytest.raises(ValueError, match=r"'nut' has no validation images.*nut/val.*'synthetic'\], got from_dir"):
        CategoryFolder(category, val_split_mode="from_dir").setup()


def test_folders_without_validation_images_are_validated_on_the_test_images(tmp_path):
    """An empty folder is named, and the test images are the validation images, as without it."""
    category = make_category(tmp_path, "nut")
    (category / "val/good").mkdir(parents=True)

    datamodule = CategoryFolder(category)
    with pytest.warns(UserWarning, match="folders without images: .*nut/val/good"):
        datamodule.setup()

    assert datamodule.val_data.samples.image_path.tolist() == datamodule.test_data.samples.image_path.tolist()


@pytest.mark.parametrize("good", [0, 2])
def test_no_test_split_leaves_the_folders_as_they_are(tmp_path, good):
    """Without a test split, no test image is left out and no training image is taken."""
    category = make_category(tmp_path, "nut", good=good)

    datamodule = CategoryFolder(category, test_split_mode="none")
    datamodule.setup()

    assert labels(datamodule.test_data) == [(0, True)] * good + [(1, True)] * 2
    assert len(datamodule.train_data) == 4


def test_synthetic_test_images_replace_the_anomalous_ones_with_a_word(tmp_path):
    """Anomalous images that synthetic ones replace are named."""
    category = make_category(tmp_path, "nut")

    with pytest.warns(UserWarning, match="'nut' are not used, as `test_split_mode` is 'synthetic': .*hole"):
        CategoryFolder(category, test_split_mode="synthetic").setup()


def test_validation_from_no_test_images_is_refused(tmp_path):
    """Where synthetic test images are too few for any, none can be taken for validation, which an error tells."""
    category = make_category(tmp_path, "nut", train=2, good=0)

    with pytest.raises(
        ValueError, match=r"'nut' has no test images \(`test_split_mode` 'synthetic'\).*`val_split_mode`"
    ):
        CategoryFolder(category, test_split_mode="synthetic", val_split_mode="from_test").setup()
