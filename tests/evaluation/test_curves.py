# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from anomalib_vqflow.evaluation.curves import aupimo, aupro, curve_metrics


def random_scores(seed, ties):
    rng = np.random.default_rng(seed)
    labels = rng.random(200) < 0.3
    scores = (rng.normal(size=200) + labels).astype(np.float32)
    return (np.round(scores) if ties else scores), labels


def metrics_of(scores, labels):
    values = np.unique(scores)
    negatives, positives = ((scores[labels == kind] == values[:, None]).sum(axis=1) for kind in (False, True))
    return curve_metrics(negatives, positives)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_single_scores(seed, ties):
    """AUROC, AP and F1max of a histogram equal scikit-learn's of single scores, with and without ties."""
    scores, labels = random_scores(seed, ties)

    metrics = metrics_of(scores, labels)

    assert metrics["AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["AP"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best = max(f1_score(labels, scores >= threshold) for threshold in np.unique(scores))
    assert metrics["F1Max"] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_those_of_torchmetrics(ties):
    """AUROC and AP equal torchmetrics', which wants scores in [0, 1], or it applies a sigmoid."""
    scores, labels = random_scores(0, ties)

    metrics = metrics_of(scores, labels)

    preds, target = torch.tensor((scores - scores.min()) / np.ptp(scores)), torch.tensor(labels).int()
    assert metrics["AUROC"] == pytest.approx(binary_auroc(preds, target).item(), abs=1e-6)
    assert metrics["AP"] == pytest.approx(binary_average_precision(preds, target).item(), abs=1e-6)


@pytest.mark.parametrize("empty", [0, 1])
def test_one_kind_of_scores_is_not_evaluable(empty):
    """With normal or anomalous scores only, or without scores, there is no metric."""
    histograms = [np.array([1, 1]), np.array([1, 1])]
    histograms[empty] = np.array([0, 0])

    assert all(math.isnan(value) for value in curve_metrics(*histograms).values())
    assert all(math.isnan(value) for value in curve_metrics(np.zeros(0), np.zeros(0)).values())


def test_equal_scores_are_chance():
    """Equal scores give an AUROC of one half, and that may be wrong by one half."""
    metrics = curve_metrics(np.array([3]), np.array([1]))

    assert metrics == pytest.approx({"AUROC": 0.5, "AP": 0.25, "F1Max": 0.4, "AUROC_error": 0.5})


def test_error_bounds_what_coarse_bins_change():
    """The stated error bounds what rounding scores does to AUROC, and is zero without ties."""
    scores, labels = random_scores(1, ties=False)
    exact, coarse = metrics_of(scores, labels), metrics_of(np.round(scores), labels)

    assert 0 < abs(coarse["AUROC"] - exact["AUROC"]) <= coarse["AUROC_error"]
    assert exact["AUROC_error"] == 0


def test_aupro_weighs_regions_equally():
    """AUPRO counts regions, not pixels, and stops at a false positive rate of 0.3."""
    # one region found at no false alarm, one at all of them; the line between passes (0.1, 0.5) and (1, 1)
    negatives, overlaps = np.array([90, 10, 0]), np.array([9 / 9, 0, 1.0])

    assert aupro(negatives, overlaps) == pytest.approx((0.5 * 0.3 + 0.2 * (0.5 * 0.2 / 0.9) / 2) / 0.3, abs=1e-12)


@pytest.mark.parametrize(("overlaps", "expected"), [([0, 0, 2.0], 1.0), ([2.0, 0, 0], 0.0), ([1.0, 1.0, 0], 0.15)])
def test_aupro_of_perfect_useless_and_random_maps(overlaps, expected):
    """AUPRO is one if all defects are above all normal pixels, zero if below, half of 0.3 on the diagonal."""
    negatives = np.array([50, 50, 0]) if expected == 0.15 else np.array([0, 100, 0])

    assert aupro(negatives, np.array(overlaps)) == pytest.approx(expected, abs=1e-12)


def test_aupro_needs_both_kinds():
    """Without defects or without normal pixels, there is no AUPRO."""
    assert math.isnan(aupro(np.array([5]), np.array([0.0])))
    assert math.isnan(aupro(np.array([0]), np.array([1.0])))


def test_aupimo_in_closed_form():
    """AUPIMO is the mean over the logarithm of the false positive rate, of the line between two thresholds."""
    # normal pixels above bin 1 are 1e-5 of all, above bin 0 1e-4; a quarter of the defects is above the first, half
    # above the second
    normal, defects = np.array([1 - 1e-4, 9e-5, 1e-5]), np.array([0.5, 0.25, 0.25])

    assert aupimo(normal, defects, num_normal_pixels=10**6) == pytest.approx(0.375, abs=1e-9)


def test_aupimo_needs_defects_and_normal_pixels():
    """Too few normal pixels, or no defect, give no AUPIMO."""
    normal, defects = np.array([0.5, 0.5]), np.array([0.0, 1.0])

    assert math.isfinite(aupimo(normal, defects, num_normal_pixels=100_000))
    assert math.isnan(aupimo(normal, defects, num_normal_pixels=99_999))
    assert math.isnan(aupimo(normal, np.zeros(2), num_normal_pixels=100_000))
