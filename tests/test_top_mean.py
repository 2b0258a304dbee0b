# SPDX-License-Identifier: Apache-2.0
"""Tests of the mean of the highest pixels."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.anomaly_map import to_unit
from anomalib_vqflow.top_mean import top_mean, top_mean_by_threshold

SHARE = 0.03
SIZE = (256, 192)


def smooth(num_images=20, seed=0):
    """Make maps as levels of several grids add up to, with defects that differ in size and height."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.zeros(num_images, 1, *SIZE)
    for grid in ((32, 24), (16, 12), (8, 6)):
        noise = torch.randn(num_images, 1, *grid, generator=rng)
        maps += F.interpolate(noise, size=SIZE, mode="bilinear", align_corners=True)
    for image in range(num_images // 2):
        top, left, size = (int(torch.randint(2, 100, (), generator=rng)) for _ in range(3))
        maps[image, :, top : top + size, left : left + size] += 4 * image
    return maps


def exact(maps):
    pixels = maps.flatten(1).double()
    return pixels.sort(dim=1, descending=True).values[:, : int(SHARE * pixels.shape[1])].mean(dim=1).float()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_by_a_threshold_it_is_the_mean(seed):
    """Scores of images differ by less than 1e-5 from those of sorted pixels, and are never below them."""
    maps = smooth(seed=seed)
    found = top_mean_by_threshold(maps, int(SHARE * SIZE[0] * SIZE[1]))
    assert_close(to_unit(found), to_unit(exact(maps)), atol=1e-5, rtol=0)
    assert (found > exact(maps) - 1e-5).all()


def test_of_equal_pixels_it_is_their_value():
    """Though no pixel lies above any threshold."""
    maps = torch.tensor([-3.0, 0.0, 5.0]).view(-1, 1, 1, 1).expand(-1, 1, *SIZE)
    assert_close(top_mean_by_threshold(maps, 1000), maps[:, 0, 0, 0])


def test_images_do_not_depend_on_each_other():
    """Each has a threshold of its own."""
    maps = smooth(4)
    together = top_mean_by_threshold(maps, 1000)
    assert_close(together, torch.cat([top_mean_by_threshold(one[None], 1000) for one in maps]), atol=1e-6, rtol=0)


def test_what_is_not_finite_is_told():
    """A broken pixel never passes for a normal one."""
    maps = smooth(2)
    maps[0, 0, 17, 33], maps[1, 0, 17, 33] = torch.nan, torch.inf
    assert not top_mean_by_threshold(maps, 1000).isfinite().any()


@pytest.mark.parametrize(("share", "size"), [(SHARE, (64, 64)), (0.6, SIZE), (1.0, SIZE)])
def test_exports_sort_few_pixels_and_most_pixels(monkeypatch, share, size):
    """Where few pixels tell too little about the threshold, or it is not among the highest."""
    maps = smooth(2)[..., : size[0], : size[1]]
    expected = top_mean(maps, share)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(top_mean(maps, share), expected)


def test_exports_take_a_threshold(monkeypatch):
    """Where there are enough pixels."""
    maps = smooth(2)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(top_mean(maps, SHARE), top_mean_by_threshold(maps, int(SHARE * SIZE[0] * SIZE[1])))


def test_at_least_one_pixel_counts():
    """Of the smallest share the mean is the highest pixel."""
    maps = smooth(2)
    assert torch.equal(top_mean(maps, 1e-9), maps.flatten(1).amax(dim=1))
