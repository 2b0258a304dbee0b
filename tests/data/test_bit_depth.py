# SPDX-License-Identifier: Apache-2.0
import warnings

import numpy as np
import pytest
from PIL import Image

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data.bit_depth import common_bit_depth

from .folders import make_category


def write_deep(path, brightest):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.linspace(0, brightest, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("brightest", "bits"), [(200, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (9000, 14), (16384, 16), (65535, 16)]
)
def test_the_smallest_usual_number_of_bits_is_found(tmp_path, brightest, bits):
    """Cameras have 8, 10, 12, 14 or 16 bits; one bright pixel of one image tells which."""
    paths = [write_deep(tmp_path / "a.png", 3), write_deep(tmp_path / "b.png", brightest)]

    assert common_bit_depth(paths, dict.fromkeys(paths, "nut")) == bits


def test_categories_of_different_depth_are_told(tmp_path):
    """All images have one range, and categories that would look dark in it are named, unless the range was given."""
    paths = [write_deep(tmp_path / "a.png", 900), write_deep(tmp_path / "b.png", 4000)]
    categories = dict(zip(paths, ("nut", "bolt"), strict=True))

    with pytest.warns(UserWarning, match=r"as of 12 bits.* look dark.*: nut \(10\)\."):
        assert common_bit_depth(paths, categories) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert common_bit_depth(paths, categories, given=14) == 14


def test_a_given_range_that_is_exceeded_is_refused(tmp_path):
    """Images brighter than white are named."""
    path = write_deep(tmp_path / "a.png", 5000)

    with pytest.raises(ValueError, match=rf"1 images use more than the 12 bits of bit_depth: {path}\."):
        common_bit_depth([path], {path: "nut"}, given=12)


@pytest.mark.parametrize("given", [0, 7, 17, -12, "12", 12.5])
def test_a_depth_that_no_file_has_is_refused(tmp_path, given):
    """A number of bits that makes no sense is named before any image is read."""
    make_category(tmp_path, "nut")

    with pytest.raises(ValueError, match=f"`bit_depth` from 8 to 16, .* got {given!r}"):
        MultiCategory(tmp_path, bit_depth=given)


@pytest.mark.parametrize("given", [None, 12, 16])
def test_a_datamodule_reads_in_one_range(tmp_path, given):
    """Training and test images are scaled by the range that is given or found, whatever is on them."""
    category = make_category(tmp_path, "nut", masks=False)
    for path in category.rglob("*.png"):
        write_deep(path, 4095 if path.parent.name == "hole" else 1000)
    datamodule = MultiCategory(tmp_path, num_workers=0, bit_depth=given)
    datamodule.setup()

    white = 65535 if given == 16 else 4095
    assert datamodule.bit_depth == (given or 12)
    assert {item.image.max().item() for item in datamodule.train_data} == {np.float32(1000) / np.float32(white)}


def test_the_range_of_a_model_is_used(tmp_path):
    """A datamodule reads as the training of a model did, and refuses images that are brighter."""
    category = make_category(tmp_path, "nut", masks=False)
    for path in category.rglob("*.png"):
        write_deep(path, 1000)
    datamodule = MultiCategory(tmp_path, num_workers=0)
    datamodule.setup()
    assert datamodule.bit_depth == 10

    datamodule.use_bit_depth(12)

    assert datamodule.train_data[0].image.max() == np.float32(1000) / np.float32(4095)
    with pytest.raises(ValueError, match="12 bits, but those of the model's training used 10"):
        datamodule.use_bit_depth(10)
