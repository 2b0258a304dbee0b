# SPDX-License-Identifier: Apache-2.0
"""The test images of categories in MVTec layout, and what they are, as in a training."""

import pytest

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data import folder_names
from anomalib_vqflow.prediction import truth
from anomalib_vqflow.prediction.truth import find_test_images
from tests.data.folders import make_category, make_image


def test_names_of_folders_mean_what_they_mean_in_a_training():
    """The command asks the same functions as a training, of a module that can be imported without torch."""
    assert truth.is_normal_name is folder_names.is_normal_name
    assert truth.role_of is folder_names.role_of


def labels(*places):
    return {
        source.name.as_posix(): (source.category, source.is_anomalous)
        for source in find_test_images([*map(str, places)])
    }


def test_test_images_are_those_of_the_datamodule(tmp_path):
    """With the same categories and labels, whatever the folders are called, and without masks and training images."""
    for name in ("bolt", "nut"):
        make_category(tmp_path, name)
    make_image(tmp_path / "bolt" / "test" / "hole" / "deep" / "a.png", 9)
    (tmp_path / "nut" / "test").rename(tmp_path / "nut" / "Testing")
    (tmp_path / "nut" / "Testing" / "good").rename(tmp_path / "nut" / "Testing" / "OK images")
    (tmp_path / "bolt" / "ground_truth").rename(tmp_path / "bolt" / "test" / "masks")
    (tmp_path / "bolt" / "test" / "masks" / "hole" / "deep").mkdir()
    make_image(tmp_path / "bolt" / "test" / "masks" / "hole" / "deep" / "a_mask.png", 200)
    datamodule = MultiCategory(tmp_path, num_workers=0)
    datamodule.setup()
    samples = datamodule.test_data.samples
    expected = {
        path.removeprefix(f"{tmp_path}/"): (category, bool(label))
        for path, category, label in zip(samples.image_path, samples.category, samples.label_index, strict=True)
    }
    assert labels(tmp_path) == expected


def test_categories_are_named_by_their_folder(tmp_path):
    """By those above, too, where that is needed to tell them apart."""
    for root in ("a", "b"):
        for name in ("bolt", "nut"):
            make_category(tmp_path / root, name, good=1, defect=1)
    a, b = tmp_path / "a", tmp_path / "b"
    assert labels(a / "bolt") == {"test/good/000.png": ("bolt", False), "test/hole/000.png": ("bolt", True)}
    for places, expected in (
        ([a], {"bolt", "nut"}),
        ([a / "bolt", a / "nut"], {"bolt", "nut"}),
        ([a, b / "nut"], {"a/bolt", "a/nut", "b/nut"}),
    ):
        assert {category for category, _ in labels(*places).values()} == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There is no category in .*products, such as bottle"),
        (["bolt/train/good/a.png"], "There is no category in .*products"),
        (["bolt/test/a.png"], r"bolt/test/a\.png may be normal or anomalous; move it to .*bolt/test/good"),
        (["bolt/test/good/a.png", "bolt/Test/good/a.png"], "Expected one folder of test images, got .*Test and .*test"),
        (["bolt/test/good/notes.txt"], "There are no test images in .*products"),
    ],
)
def test_what_is_no_layout_is_refused(tmp_path, files, message):
    """With what was expected."""
    root = tmp_path / "products"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    with pytest.raises(ValueError, match=message):
        find_test_images([str(root)])
