# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow import MultiCategory, SyntheticProducts
from anomalib_vqflow.data.category_folder import CategoryFolder
from anomalib_vqflow.data.splits import check_split_arguments

from .folders import make_category


@pytest.mark.parametrize("name", ["test_split_ratio", "val_split_ratio"])
@pytest.mark.parametrize("ratio", [0, 0.0, 1, 1.5, -0.1, 5e-324, float("nan"), float("inf"), "0.5"])
def test_ratios_outside_of_their_range_are_refused_everywhere(tmp_path, name, ratio):
    """No way of giving a ratio takes 0 for 0.5, or any other value that splits nothing off."""
    make_category(tmp_path, "nut")
    mode = name.replace("ratio", "mode")
    for build in (
        lambda: CategoryFolder(tmp_path / "nut", **{name: ratio}),
        lambda: MultiCategory(tmp_path, **{name: ratio}),
        lambda: MultiCategory(tmp_path, dataset="Visa", **{name: ratio}),
        lambda: MultiCategory(tmp_path, dataset="Visa", dataset_args={name: ratio}),
        lambda: MultiCategory(datamodules=[CategoryFolder(tmp_path / "nut")], **{name: ratio}),
        lambda: SyntheticProducts(tmp_path, **{name: ratio}),
    ):
        with pytest.raises(ValueError, match=rf"`{name}` above 0 and below 1, got .*set `{mode}` to 'none'"):
            build()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("test_split_mode", "val_split_mode")
            for value in ("", "FROM_DIR", 0, True, ["x"])
        ),
        *(("seed", value) for value in ("0", 0.5, False, -(2**63) - 1, 2**64, [0])),
    ],
)
def test_other_split_arguments_are_refused_by_their_names(tmp_path, name, value):
    """A mode that is none, and a seed that torch cannot take, are refused before any file is read."""
    for build in (
        lambda: CategoryFolder(tmp_path / "nut", **{name: value}),
        lambda: MultiCategory(tmp_path, **{name: value}),
        lambda: MultiCategory(tmp_path, dataset="Visa", dataset_args={name: value}),
    ):
        with pytest.raises(ValueError, match=f"Expected `{name}` to be"):
            build()


def test_ratios_that_are_not_given_pass():
    """None means that a dataset has a default of its own."""
    check_split_arguments({"val_split_ratio": None, "test_split_ratio": 0.2, "seed": 0})


@pytest.mark.parametrize("mode", ["from_train", "from_test", "synthetic"])
def test_validation_images_that_round_to_none_are_refused(tmp_path, mode):
    """A ratio too small for the number of images is an error with the category."""
    make_category(tmp_path, "nut", train=4, good=1, defect=1)

    with pytest.raises(ValueError, match=rf"'nut' has too few images for `val_split_mode` '{mode}'"):
        MultiCategory(tmp_path, val_split_mode=mode, val_split_ratio=0.2).setup()


def test_validation_without_one_kind_of_images_is_named(tmp_path):
    """Where one kind of test images is too rare to be split, a warning names category and kind."""
    make_category(tmp_path, "nut", good=1, defect=4)

    with pytest.warns(UserWarning, match="'nut' has no normal validation images"):
        MultiCategory(tmp_path, val_split_mode="from_test", val_split_ratio=0.5).setup()


def test_synthetic_validation_of_one_image_is_named(tmp_path):
    """One image makes no synthetic anomaly, which a warning tells."""
    make_category(tmp_path, "nut", train=2)

    with pytest.warns(UserWarning, match="'nut' has no anomalous validation images"):
        MultiCategory(tmp_path, val_split_mode="synthetic", val_split_ratio=0.5).setup()


def test_test_images_that_round_to_none_are_named(tmp_path):
    """Where no normal test image can be taken from the training images, a warning names the category."""
    make_category(tmp_path, "nut", train=3, good=0)

    with pytest.warns(UserWarning, match="'nut' has no normal test images: too few training images"):
        MultiCategory(tmp_path, test_split_ratio=0.2).setup()
