# SPDX-License-Identifier: Apache-2.0
import torch

from anomalib_vqflow.evaluation.binning import NUM_BINS, add_histograms, all_bins, bin_scores, histogram


def test_bins_keep_the_order_of_all_floats():
    """Bins are in the order of the scores, for all magnitudes and signs, and within bounds."""
    values = torch.tensor(
        [float("nan"), -torch.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 0.6, 1.0, 3e38, torch.inf]
    )

    bins = bin_scores(values)

    assert (bins.diff() >= 0).all()
    assert bins[0] == bins[1]
    assert bins[5] == bins[6]
    assert bins.min() >= 0
    assert bins.max() < NUM_BINS


def test_bins_are_narrower_than_one_in_two_thousand():
    """Scores that differ by 1/1024 are told apart at any magnitude."""
    values = torch.logspace(-20, 20, 1000)

    assert (bin_scores(values * (1 + 1 / 1024)) > bin_scores(values)).all()


def test_bins_resolve_scores_that_come_close_to_one():
    """Scores close to one are told apart by their distance to it."""
    distances = torch.tensor([0.5, 0.499, 0.1, 1e-3, 1e-5, 1e-6, 2.0**-24, 0.0, -1e-3])

    assert (bin_scores(1 - distances).diff() > 0).all()


def test_bins_have_the_shape_of_the_scores():
    """Scores of lower precision and of any shape are binned."""
    assert bin_scores(torch.rand(2, 3, 4, dtype=torch.float16)).shape == (2, 3, 4)


def test_histograms_count_and_weigh():
    """A histogram has the number of scores per bin, or the sum of their weights, and can be added to others."""
    bins, weights = torch.tensor([9, 4, 9], dtype=torch.int32), torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)

    counts, sums, none = histogram(bins), histogram(bins, weights), histogram(bins[:0])

    assert counts.tolist() == [[4, 1], [9, 2]]
    assert sums.tolist() == [[4, 1], [9, 0.75]]
    assert add_histograms([none, none]).shape == none.shape == (0, 2)
    assert add_histograms([counts, none, histogram(torch.tensor([5, 9]))]).tolist() == [[4, 1], [5, 1], [9, 3]]
    whole = all_bins(sums)
    assert whole.shape == (NUM_BINS,)
    assert (whole.sum(), whole[4], whole[9]) == (1.75, 1, 0.75)
    assert not all_bins(none).any()
