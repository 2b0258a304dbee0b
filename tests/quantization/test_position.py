# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.quantization.position import axis_encoding

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dim", "size"), [(4, 1), (8, 5), (64, 12), (12, 9)])
def test_every_value_follows_the_formula(dim, size):
    """Channel c of place x is the sine or cosine of x at the documented wavelength."""
    encoding = axis_encoding(dim, size, torch.float32, CPU)

    assert encoding.shape == (dim // 2, size)
    for channel in range(dim // 2):
        wavelength = 2 * math.pi * 10 ** (4 * 4 * (channel // 2) / dim)
        wave = math.cos if channel % 2 else math.sin
        for x in range(size):
            assert encoding[channel, x].item() == pytest.approx(wave(2 * math.pi * x / wavelength), abs=1e-5)


def test_a_place_keeps_its_code_when_the_axis_grows():
    """The encoding counts from the corner, whatever the size of the grid."""
    assert torch.equal(axis_encoding(8, 4, torch.float32, CPU), axis_encoding(8, 6, torch.float32, CPU)[:, :4])


def test_width_zero_is_an_empty_encoding():
    """The ablation without position concatenates nothing."""
    assert axis_encoding(0, 5, torch.float32, CPU).shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_cast_from_float32(dtype):
    """Other types hold the float32 values, as in the paper's release."""
    encoding = axis_encoding(8, 5, dtype, CPU)

    assert encoding.dtype == dtype
    assert_close(encoding, axis_encoding(8, 5, torch.float32, CPU).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [-4, 1, 2, 6, 63])
def test_widths_that_are_no_multiple_of_four_are_refused(dim):
    """Sine and cosine of x and y need four channels each time; the message names the argument and the value."""
    with pytest.raises(ValueError, match=rf"position_dim .* multiple of 4 .*got {dim}\."):
        axis_encoding(dim, 2, torch.float32, CPU)
