# SPDX-License-Identifier: Apache-2.0
import warnings

import numpy as np
import pytest
from PIL import Image

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data.bit_depth import check_bit_depth, common_bit_depth


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


@pytest.mark.parametrize("bit_depth", [0, -3, 17, 12.0, "12", True, [12]])
def test_bits_that_are_none_are_refused(tmp_path, bit_depth):
    """Whatever is no number of bits is an error with the argument's name."""
    with pytest.raises(ValueError, match="`bit_depth` to be None or an integer from 1 to 16, got"):
        MultiCategory(tmp_path, bit_depth=bit_depth)


def test_bits_from_1_to_16_pass():
    """None leaves them open."""
    for bit_depth in (None, 1, 12, 16):
        check_bit_depth(bit_depth)
