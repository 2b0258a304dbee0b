# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.quantization import sinusoidal_encoding


@pytest.mark.parametrize(("dim", "height", "width"), [(4, 1, 1), (8, 3, 5), (64, 12, 7), (12, 1, 9)])
def test_every_value_follows_the_formula(dim, height, width):
    """Channel c of cell (x, y) is the sine or cosine of its own coordinate at the documented wavelength."""
    encoding = sinusoidal_encoding(dim, height, width)

    half = dim // 2
    for channel in range(dim):
        within = channel % half
        wavelength = 2 * math.pi * 10 ** (4 * 4 * (within // 2) / dim)
        wave = math.cos if within % 2 else math.sin
        for y in range(height):
            for x in range(width):
                coordinate = x if channel < half else y
                expected = wave(2 * math.pi * coordinate / wavelength)
                assert encoding[channel, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_first_half_depends_on_the_column_only_and_second_on_the_row_only():
    """All rows agree in the first half of the channels, all columns in the second."""
    columns, rows = sinusoidal_encoding(16, 5, 7).split(8)

    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows))
    assert columns.std(dim=2).min() > 0
    assert rows.std(dim=1).min() > 0


def test_rows_and_columns_are_encoded_alike():
    """Transposing the grid exchanges the halves."""
    columns, rows = sinusoidal_encoding(16, 5, 7).split(8)

    assert torch.equal(sinusoidal_encoding(16, 7, 5), torch.cat((rows.mT, columns.mT)))


def test_a_cell_keeps_its_code_when_the_grid_grows():
    """The encoding counts cells from the corner, whatever the size of the grid."""
    assert torch.equal(sinusoidal_encoding(8, 3, 4), sinusoidal_encoding(8, 9, 6)[:, :3, :4])


def test_no_two_cells_share_an_encoding():
    """Cells of the largest published grid, 48 x 48, are told apart."""
    cells = sinusoidal_encoding(64, 48, 48, torch.float64).flatten(1).T
    distance = torch.cdist(cells, cells).fill_diagonal_(torch.inf)

    assert distance.min() > 0.5


def test_width_zero_is_an_empty_encoding():
    """The ablation without position concatenates nothing."""
    assert sinusoidal_encoding(0, 3, 5).shape == (0, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_cast_from_float32(dtype):
    """Other types hold the float32 values, as in the paper's release."""
    encoding = sinusoidal_encoding(8, 3, 5, dtype)

    assert encoding.dtype == dtype
    assert_close(encoding, sinusoidal_encoding(8, 3, 5).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [-4, 1, 2, 6, 63])
def test_widths_that_are_no_multiple_of_four_are_refused(dim):
    """Sine and cosine of x and y need four channels each time; the message names the argument and the value."""
    with pytest.raises(ValueError, match=rf"position_dim .* multiple of 4 .*got {dim}\."):
        sinusoidal_encoding(dim, 2, 2)
