# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_precision_recall_curve

from anomalib_vqflow.evaluation.curves import ScoreCounts, count_scores, detection_metrics, region_overlap, tie_error


def random_scores(seed, ties):
    rng = np.random.default_rng(seed)
    labels = rng.random(200) < 0.3
    scores = (rng.normal(size=200) + labels).astype(np.float32)
    return (np.round(scores) if ties else scores), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_torchmetrics(seed, ties):
    """AUROC, AP and F1max equal torchmetrics', with and without ties."""
    scores, labels = random_scores(seed, ties)

    metrics = detection_metrics(count_scores(scores, labels))

    # torchmetrics wants scores in [0, 1], or it applies a sigmoid
    preds, target = torch.tensor((scores - scores.min()) / np.ptp(scores)), torch.tensor(labels).int()
    precision, recall, _ = binary_precision_recall_curve(preds, target)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    assert metrics.auroc == pytest.approx(binary_auroc(preds, target).item(), abs=1e-6)
    assert metrics.average_precision == pytest.approx(binary_average_precision(preds, target).item(), abs=1e-6)
    assert metrics.f1_max == pytest.approx(f1.max().item(), abs=1e-6)


def test_metrics_do_not_depend_on_the_scale_of_scores():
    """Scaling or shifting the scores changes no metric."""
    scores, labels = random_scores(0, ties=False)
    expected = detection_metrics(count_scores(scores, labels))

    for scale, shift in [(1e-20, 0), (1e20, 0), (1, -50)]:
        scaled = (scores.astype(np.float64) * scale + shift).astype(np.float64)
        assert detection_metrics(count_scores(scaled, labels)) == expected


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_of_images_is_not_evaluable(label):
    """With normal or anomalous scores only, there is no metric."""
    metrics = detection_metrics(count_scores(np.float32([1, 2]), np.array([label, label])))

    assert all(math.isnan(value) for value in metrics)


def test_equal_scores_are_chance():
    """Equal scores give an AUROC of one half, and that may be wrong by one half."""
    counts = count_scores(np.float32([1, 1, 1, 1]), np.array([True, False, False, False]))

    assert detection_metrics(counts) == (0.5, 0.25, 0.4)
    assert tie_error(counts) == 0.5


def test_tie_error_bounds_what_coarse_bins_change():
    """The stated error bounds what rounding scores does to AUROC."""
    scores, labels = random_scores(1, ties=False)
    coarse = count_scores(np.round(scores), labels)

    error = abs(detection_metrics(coarse).auroc - detection_metrics(count_scores(scores, labels)).auroc)

    assert 0 < error <= tie_error(coarse)


def test_region_overlap_weighs_regions_equally():
    """AUPRO counts regions, not pixels, and stops at its limit."""
    # one region of 1 pixel found at no false alarm, one of 9 pixels never found
    negatives, overlaps = np.array([90, 10, 0]), np.array([9 / 9, 0, 1.0])

    assert region_overlap(negatives, overlaps, num_regions=2, limit=0.1) == pytest.approx(0.5)
    assert region_overlap(negatives, overlaps, num_regions=2, limit=1.0) == pytest.approx(0.5 * 0.1 + 0.75 * 0.9)


def test_no_region_is_not_evaluable():
    """Without regions or anomalous scores, there is no AUPRO and no error."""
    assert math.isnan(region_overlap(np.array([5]), np.array([0.0]), num_regions=0, limit=0.3))
    assert math.isnan(tie_error(ScoreCounts(np.array([5]), np.array([0]))))
