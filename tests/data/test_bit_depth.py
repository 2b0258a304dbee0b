# SPDX-License-Identifier: Apache-2.0
import warnings

import numpy as np
import pytest
from PIL import Image

from anomalib_vqflow.data.bit_depth import common_bit_depth


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
