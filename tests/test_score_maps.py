# SPDX-License-Identifier: Apache-2.0
"""Tests of the steps from levels to a map."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.score_maps import SMALLEST_ENERGY, log_energies, mean_map


def test_energies_are_weighed_by_the_share_of_the_cells_around_that_are_seen():
    """Of 5 × 5 cells, 3 × 3 lie in the image in a corner, 3 × 5 at a side, 4 × 5 beside it."""
    level = torch.randn(2, 1, 8, 9)
    (found,) = log_energies([level])
    weight = (found - F.softplus(level).log()).exp()
    assert_close(weight[:, 0, 0, 0], torch.full((2,), 9 / 25))
    assert_close(weight[:, 0, -1, 4], torch.full((2,), 15 / 25))
    assert_close(weight[:, 0, 3, 1], torch.full((2,), 20 / 25))
    assert_close(weight[:, :, 2:-2, 2:-2], torch.ones(2, 1, 4, 5))


@pytest.mark.parametrize("side", [1, 2, 4])
def test_small_maps_are_weighed_alike_in_all_images_and_finite(side):
    """Where the window is wider than the map."""
    first, second = log_energies([torch.stack((torch.full((1, side, side), -1e4), torch.zeros(1, side, side)))])[0]
    assert_close(second - first, torch.full_like(first, 0.6931 / SMALLEST_ENERGY).log(), atol=1e-3, rtol=0)


def test_a_mean_map_keeps_constants_and_the_order_of_levels_does_not_matter():
    """Of the levels that were asked for."""
    fine, coarse = torch.rand(2, 1, 8, 8), torch.full((2, 1, 4, 4), 3.0)
    assert_close(mean_map([fine, coarse], [1], (16, 12)), torch.full((2, 1, 16, 12), 3.0))
    assert_close(mean_map([fine, coarse], [0, 1], (16, 12)), mean_map([coarse, fine], [0, 1], (16, 12)))


def test_a_mean_map_draws_each_cell_where_its_pixels_are():
    """A bump in one cell has its center in the middle of that cell's pixels, whatever the level."""
    size = (32, 48)
    for cells in ((8, 12), (4, 6)):
        level = torch.zeros(1, 1, *cells)
        level[0, 0, 1, 3] = 1
        drawn = mean_map([level], [0], size)[0, 0]
        for axis, (index, pixels) in enumerate(zip((1, 3), size, strict=True)):
            stride = pixels // cells[axis]
            profile = drawn.sum(dim=1 - axis)
            assert_close(
                (profile * torch.arange(pixels)).sum() / profile.sum(), torch.tensor((index + 0.5) * stride - 0.5)
            )


def test_a_mean_map_can_weigh_coarser_levels_less():
    """Each by the same factor relative to the one before; the weights sum to one."""
    levels = [torch.full((1, 1, 2, 2), value) for value in (1.0, 10.0, 100.0)]
    assert_close(mean_map(levels, [0, 1, 2], (4, 4), 0.5), torch.full((1, 1, 4, 4), (4 * 1 + 2 * 10 + 100) / 7))
    assert_close(mean_map(levels, [1, 2], (4, 4), 0.5), torch.full((1, 1, 4, 4), (2 * 10 + 100) / 3))
