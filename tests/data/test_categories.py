# SPDX-License-Identifier: Apache-2.0
import warnings

import numpy as np
import pytest
import torch
from anomalib.data import Folder

from anomalib_vqflow.data.categories import (
    choose_categories,
    dataset_categories,
    folder_categories,
    setup_datamodule,
)
from anomalib_vqflow.data.category_folder import CategoryFolder

from .folders import make_category

CATEGORY_DATASETS = ["BMAD", "BTech", "Kaputt", "MPDD", "MVTecAD", "MVTecAD2", "MVTecLOCO", "RealIAD", "VAD", "Visa"]


@pytest.mark.parametrize("dataset", CATEGORY_DATASETS)
def test_every_dataset_with_categories_gives_them_all(dataset, tmp_path):
    """Every anomalib dataset with categories gives one datamodule for each, with the passed arguments."""
    datamodules = dataset_categories(dataset, "all", {"root": tmp_path, "seed": 1})

    names = [datamodule.category for datamodule in datamodules]
    assert len(set(names)) == len(names) >= 1
    assert all(type(datamodule).__name__ == dataset and datamodule.seed == 1 for datamodule in datamodules)


def test_unknown_dataset_lists_the_known_ones():
    """An unknown dataset is refused, with the known ones."""
    with pytest.raises(ValueError, match=r"'MVTec'; choose from .*'MVTecAD'"):
        dataset_categories("MVTec", "all", {})


def test_unknown_argument_lists_the_known_ones(tmp_path):
    """An argument that a dataset does not take is refused, with those that it takes."""
    with pytest.raises(ValueError, match=r"MVTecAD2 does not take \['val_split_mode'\].*'test_type'"):
        dataset_categories("MVTecAD2", "all", {"root": tmp_path, "val_split_mode": "none"})


def test_arguments_reach_the_dataset(tmp_path):
    """A dataset's own arguments pass through."""
    (datamodule,) = dataset_categories("MVTecAD2", "can", {"root": tmp_path, "test_type": "private"})

    assert datamodule.test_type == "private"


def test_unknown_category_lists_the_known_ones():
    """An unknown category is refused, with the known ones."""
    with pytest.raises(ValueError, match=r"\['bolt'\]; choose from \['nut', 'screw'\]"):
        choose_categories(["nut", "bolt"], ["nut", "screw"])


@pytest.mark.parametrize("categories", [[], (), None, 3, 0.5, ["nut", 3], [["nut"]], np.array(2), object()])
def test_what_names_no_category_is_refused(categories):
    """An empty list of categories, and whatever is no list of names, is refused by the argument's name."""
    with pytest.raises(ValueError, match="`categories` to be 'all', or names such as nut, got"):
        choose_categories(categories, ["nut"])


def test_missing_empty_and_wrong_root_are_told_apart(tmp_path):
    """A missing root, an empty one and one that is a category itself have messages of their own."""
    with pytest.raises(ValueError, match=r"found none at .*gone; check `root`"):
        folder_categories(tmp_path / "gone", "all", {})
    with pytest.raises(ValueError, match=r"found none; check `root`"):
        folder_categories(tmp_path, "all", {})
    with pytest.raises(ValueError, match=r"is a category itself; use root=.* categories='nut'"):
        folder_categories(make_category(tmp_path, "nut"), "all", {})


def test_folders_and_files_that_are_no_categories_are_named(tmp_path):
    """What is in `root` and no category is named, unless categories are chosen; texts and hidden files are not."""
    make_category(tmp_path, "nut")
    make_category(tmp_path / "line2", "bolt")
    make_category(tmp_path, ".trash")
    for name in ("spare.png", "more.zip", "readme.txt"):
        (tmp_path / name).touch()

    with pytest.warns(UserWarning, match=r"no categories .*: \S*/line2, \S*/more\.zip, \S*/spare\.png\.$"):
        (datamodule,) = folder_categories(tmp_path, "all", {})
    assert datamodule.category == "nut"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder_categories(tmp_path, ["nut"], {})


@pytest.mark.parametrize("train", ["Train", "TRAINING"])
def test_categories_are_found_in_any_case(tmp_path, train):
    """A category whose folders are written in capitals is one."""
    make_category(tmp_path, "nut")
    (tmp_path / "nut/train").rename(tmp_path / "nut" / train)
    (tmp_path / "nut/test").rename(tmp_path / "nut/TEST")

    assert [datamodule.category for datamodule in folder_categories(tmp_path, "all", {})] == ["nut"]


def test_root_without_categories_tells_what_it_has(tmp_path):
    """A folder one too high is refused with the names of what is in it."""
    make_category(tmp_path / "line1", "nut")

    with pytest.raises(ValueError, match="found none, but line1; check `root`"):
        folder_categories(tmp_path, "all", {})


def test_a_broken_link_in_a_dataset_of_anomalib_is_named(tmp_path):
    """Where anomalib only says that paths are missing, the link is told; another missing file is anomalib's to tell."""
    category = make_category(tmp_path, "nut")
    (category / "train" / "good" / "x.png").symlink_to("/nowhere")

    with pytest.raises(ValueError, match=r"1 links are broken.*train/good/x\.png"):
        setup_datamodule(Folder("nut", root=category, normal_dir="train/good"))
    with pytest.raises(FileNotFoundError, match="train/gut"):
        setup_datamodule(Folder("nut", root=tmp_path / "other", normal_dir="train/gut"))


@pytest.mark.parametrize("name", ["test_split_mode", "val_split_mode"])
def test_synthetic_anomalies_of_tiny_images_are_refused_by_their_argument(tmp_path, name):
    """Where anomalib fails to draw on images of a few pixels, an error tells the category and the mode."""
    torch.manual_seed(0)
    datamodule = CategoryFolder(make_category(tmp_path, "nut", train=24, good=24, size=(4, 4)), **{name: "synthetic"})

    with pytest.raises(ValueError, match=f"'nut' .* `{name}` 'synthetic'; those of less than 32 pixels"):
        setup_datamodule(datamodule)


def test_other_errors_of_datasets_stay_what_they_are(tmp_path, monkeypatch):
    """An error that has nothing to do with synthetic anomalies passes."""
    datamodule = CategoryFolder(make_category(tmp_path, "nut"))

    def fail():
        msg = "no memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(datamodule, "setup", fail)

    with pytest.raises(RuntimeError, match="no memory"):
        setup_datamodule(datamodule)
