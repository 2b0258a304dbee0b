# SPDX-License-Identifier: Apache-2.0
import math
import pickle

import numpy as np
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_precision_recall_curve

from anomalib_vqflow.evaluation.category_evaluator import MAX_BINNING_ERROR
from anomalib_vqflow.evaluation.scores import NUM_BINS, DecisionCounts, ImageScores, PixelScores, bin_scores


def maps_and_masks(transform=lambda maps: maps, images=6, size=64):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(images, size, size, dtype=torch.bool)
    for index in range(images - 2):
        masks[index, 5 : 15 + index, 8:20] = True
        masks[index, 40 : 44 + 3 * index, 30:50] = True
    maps = torch.rand(images, size, size, generator=generator) + 0.5 * masks
    return transform(maps / 1.5), masks


def filled(maps, masks):
    scores = PixelScores()
    scores.update(maps, masks)
    return scores


TRANSFORMS = {
    "plain": lambda maps: maps,
    "tiny": lambda maps: maps * 1e-6,
    "huge and negative": lambda maps: (maps - 0.5) * 1e6,
    "log-likelihood": lambda maps: 200 * torch.log(maps + 1e-3),
    "close to one": lambda maps: 1 - torch.exp(-12 * maps),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_binned_metrics_are_close_to_exact_ones_on_any_scale(name):
    """Binning moves AUROC by no more than stated, and AP and F1max by little, on any scale."""
    plain, masks = maps_and_masks()
    scores = filled(TRANSFORMS[name](plain), masks)

    metrics = scores.compute()

    preds, target = plain.flatten(), masks.flatten().int()
    precision, recall, _ = binary_precision_recall_curve(preds, target)
    f1_max = (2 * precision * recall / (precision + recall).clamp(min=1e-12)).max()
    assert abs(metrics.auroc - binary_auroc(preds, target).item()) <= scores.error() + 1e-6
    assert scores.error() < 1e-3
    assert metrics.auroc == pytest.approx(binary_auroc(preds, target).item(), abs=1e-4)
    assert metrics.average_precision == pytest.approx(binary_average_precision(preds, target).item(), abs=2e-3)
    assert metrics.f1_max == pytest.approx(f1_max.item(), abs=1e-3)


@pytest.mark.parametrize("offset", [10, 100])
def test_scores_far_from_zero_are_coarser_but_within_the_stated_error(offset):
    """Scores in a narrow range far from zero share bins: AUROC stays within its bound, which passes the warning's."""
    plain, masks = maps_and_masks()
    scores = filled(offset + plain, masks)

    exact = binary_auroc(plain.flatten(), masks.flatten().int()).item()
    assert abs(scores.compute().auroc - exact) <= scores.error()
    assert scores.error() > MAX_BINNING_ERROR


def test_aupro_equals_that_of_anomalib():
    """AUPRO up to 30 % false positives equals anomalib's."""
    maps, masks = maps_and_masks()
    exact = _AUPRO(fpr_limit=0.3)
    exact.update(maps, masks)

    assert filled(maps, masks).aupro() == pytest.approx(exact.compute().item(), abs=1e-3)


def test_batches_and_processes_add_up():
    """Metrics of merged parts equal those of the whole."""
    maps, masks = maps_and_masks()
    whole, first, second = filled(maps, masks), filled(maps[:2], masks[:2]), filled(maps[2:], masks[2:])

    first.merge(second)

    assert first.compute() == whole.compute()
    assert first.aupro() == pytest.approx(whole.aupro(), abs=1e-12)


def test_bins_keep_the_order_of_all_floats():
    """Bins are in the order of the scores, for all magnitudes and signs, and within bounds."""
    values = torch.tensor(
        [float("nan"), -torch.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 0.6, 1.0, 3e38, torch.inf]
    )

    bins = bin_scores(values)

    assert (np.diff(bins) >= 0).all()
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

    assert (np.diff(bin_scores(1 - distances)) > 0).all()


def test_image_that_scores_nan_counts_as_lowest():
    """NaN as a score counts as the lowest, as no threshold flags it."""
    scores = ImageScores()
    scores.update(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1, 0, 0]))

    assert scores.compute().auroc == 0.0


def test_raw_scores_outside_zero_and_one_are_not_squashed():
    """Scores beyond one keep their order and are counted."""
    scores = ImageScores()
    scores.update(torch.tensor([100.0, 101.0, 102.0, 103.0]), torch.tensor([0, 0, 1, 1]))

    assert scores.compute().auroc == 1.0
    assert scores.counts() == (2, 2)


def test_nothing_collected_is_not_evaluable():
    """Without images, there is no metric."""
    assert math.isnan(ImageScores().compute().auroc)
    assert math.isnan(DecisionCounts().f1())


def test_f1_at_own_threshold():
    """F1 is that of the counted decisions."""
    counts = DecisionCounts()
    counts.update(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    counts.update(torch.tensor([True]), torch.tensor([True]))

    assert counts.f1() == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_maps_and_masks_of_different_size_raise():
    """A map of another size than its mask is refused, with both sizes."""
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and masks \(1, 8, 8\)"):
        PixelScores().update(torch.zeros(1, 4, 4), torch.zeros(1, 8, 8, dtype=torch.bool))


def test_scores_are_sent_between_processes_without_empty_bins():
    """Sending scores costs little and changes nothing."""
    scores = filled(*maps_and_masks())

    sent = pickle.dumps(scores)
    received = pickle.loads(sent)

    assert len(sent) < 1_000_000
    assert received.compute() == scores.compute()
    assert received.aupro() == scores.aupro()
