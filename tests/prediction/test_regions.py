# SPDX-License-Identifier: Apache-2.0
"""Regions are those of scipy, and what is told of each is so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from anomalib_vqflow.prediction.regions import Region, find_regions

EIGHT = np.ones((3, 3))
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def regions_of_scipy(mask, scores):
    """What must be found, in any order."""
    labels, count = ndimage.label(mask, EIGHT)
    found = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels == index
        width, height = columns.stop - columns.start, rows.stop - rows.start
        found.append((columns.start, rows.start, width, height, inside.sum(), scores[inside].max()))
    assert len(found) == count
    return sorted(found)


def check(mask, seed=0):
    scores = np.random.default_rng(seed).random(mask.shape, dtype=np.float32)
    found = find_regions(mask, scores)
    assert sorted(found) == regions_of_scipy(mask, scores)
    peaks = [region.peak for region in found]
    assert peaks == sorted(peaks, reverse=True)


@settings(deadline=None)  # the first example imports SciPy
@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)), st.integers(0, 9))
def test_regions_are_those_of_scipy(mask, seed):
    """In masks of any shape, down to a row, a column or a pixel."""
    check(mask, seed)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.4, 0.6, 0.95])
def test_large_masks(density):
    """Of noise, where regions wind and meet again."""
    check(np.random.default_rng(1).random((300, 200)) < density)


def test_spirals_and_combs_are_one_region():
    """What is connected at one end only."""
    spiral = np.zeros((41, 41), dtype=bool)
    for step in range(0, 20, 2):
        spiral[step, step : 41 - step] = spiral[40 - step, step : 41 - step] = True
        spiral[step : 41 - step, 40 - step] = spiral[step + 2 : 41 - step, step] = True
        spiral[step + 2, step : step + 3] = True
    comb = np.zeros((40, 41), dtype=bool)
    comb[:, ::2] = True
    comb[-1] = True
    for mask in (spiral, comb, comb[::-1], comb.T):
        check(mask)
        assert len(find_regions(mask, np.ones(mask.shape))) == 1


def test_an_empty_mask_has_none_and_a_full_one_has_one():
    """The latter is the whole image."""
    scores = np.full((3, 5), 0.25)
    assert find_regions(np.zeros((3, 5), dtype=bool), scores) == []
    assert find_regions(np.ones((3, 5), dtype=bool), scores) == [Region(0, 0, 5, 3, 15, 0.25)]


def test_numbers_are_plain():
    """They go into JSON."""
    (region,) = find_regions(np.ones((1, 1), dtype=bool), np.ones((1, 1), dtype=np.float32))
    assert [type(value) for value in region] == [int] * 5 + [float]


def test_scores_of_another_shape_are_refused():
    """With both shapes."""
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        find_regions(np.ones((2, 3), dtype=bool), np.ones((3, 2)))
