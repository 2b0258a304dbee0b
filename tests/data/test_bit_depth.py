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


@pytest.fixture
def files(tmp_path):
    """Write 16-bit images of one brightness each; give their paths and, by these, categories of equal name."""

    def write(**values):
        paths = {name: str(tmp_path / f"{name}.png") for name in values}
        for name, path in paths.items():
            Image.fromarray(np.full((8, 8), values[name], np.uint16)).save(path)
        return list(paths.values()), {path: name for name, path in paths.items()}

    return write


@pytest.mark.parametrize(("brightest", "bits"), [(255, 8), (256, 10), (1000, 10), (4095, 12), (4096, 14), (16383, 14)])
def test_a_guess_is_told(files, brightest, bits):
    """The smallest usual range is taken for all, with a warning that names files, the argument, and what looks dark."""
    with pytest.warns(UserWarning, match=rf"as of {bits} bits.*nut\.png.*set `bit_depth`") as caught:
        assert common_bit_depth(*files(nut=brightest, bolt=10)) == bits
    assert ("look dark: bolt (8)" in str(caught[0].message)) == (bits > 8)


@pytest.mark.parametrize(("given", "brightest"), [(None, 65535), (12, 255), (16, 255)])
def test_a_range_that_is_sure_needs_no_words(files, given, brightest):
    """What the user gives, or the full range, is taken in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert common_bit_depth(*files(nut=brightest), given) == (given or 16)


def test_brighter_images_than_given_are_named(files):
    """An image that goes beyond the given range is an error with its path."""
    with pytest.raises(ValueError, match=r"1 images use more than the 10 bits of bit_depth: .*nut\.png"):
        common_bit_depth(*files(nut=1024, bolt=1023), 10)
