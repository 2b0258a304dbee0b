# SPDX-License-Identifier: Apache-2.0
"""Metrics over all thresholds from histograms of normal and anomalous scores, by scikit-learn.

A histogram has the number of scores per bin, ascending by score, shape ``(N,)``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Histogram = NDArray[np.int64] | NDArray[np.float64]
AUPRO_LIMIT = 0.3  # largest false positive rate
AUPIMO_LIMITS = (1e-5, 1e-4)  # false positive rates, anomalib's default
NUM_RATES = 300


def curve_metrics(negatives: Histogram, positives: Histogram) -> dict[str, float]:
    """Compute AUROC, average precision and the best F1 score.

    A tie between a normal and an anomalous score counts half in AUROC and shares a threshold elsewhere.

    Args:
        negatives: Histogram of normal scores.
        positives: Histogram of anomalous scores.

    Returns:
        ``AUROC``, ``AP`` and ``F1Max``, 0 to 1, and ``AUROC_error``, 0 to 0.5: how far AUROC can lie from its exact
        value because different scores share a bin. All are NaN if normal or anomalous scores are missing.

    Example:
        >>> round(curve_metrics(np.array([2, 1, 0]), np.array([0, 1, 1]))["AUROC"], 4)
        0.9167
    """
    if not (negatives.any() and positives.any()):
        return dict.fromkeys(("AUROC", "AP", "F1Max", "AUROC_error"), float("nan"))
    samples = _weighted_samples(negatives, positives)
    precision, recall, _ = precision_recall_curve(**samples)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return {
        "AUROC": float(roc_auc_score(**samples)),
        "AP": float(average_precision_score(**samples)),
        "F1Max": float(f1.max()),
        "AUROC_error": float(negatives @ (positives / 2)) / (int(negatives.sum()) * int(positives.sum())),
    }


def aupro(negatives: Histogram, region_overlaps: Histogram) -> float:
    """Compute AUPRO: mean overlap with the defects, averaged over false positive rates up to 0.3.

    Where each pixel of a defect counts 1 / area, the mean overlap is a true positive rate: AUPRO is a partial AUROC.

    Args:
        negatives: Histogram of normal pixels.
        region_overlaps: Histogram of the pixels of defects, each weighted with 1 / area of its defect.

    Returns:
        The area divided by 0.3, 0 to 1; NaN without normal pixels or defects.
    """
    if not (negatives.any() and region_overlaps.any()):
        return float("nan")
    rescaled = roc_auc_score(**_weighted_samples(negatives, region_overlaps), max_fpr=AUPRO_LIMIT)
    chance = AUPRO_LIMIT / 2  # what a diagonal has; scikit-learn maps it to 0.5, and 1 to 1 (McClish, 1989)
    return float(chance + (2 * rescaled - 1) * (1 - chance))


def aupimo(normal: Histogram, defects: Histogram, num_normal_pixels: int) -> float:
    """Compute AUPIMO: share of the defect that is found in an image, averaged at false positive rates of 1e-5 to 1e-4.

    Source: Bertoldo et al., AUPIMO, 2024, https://arxiv.org/abs/2401.01984. Unlike anomalib's ``AUPIMO``, thresholds
    are where the scores of normal pixels are. As all images share them, the mean of their curves needs no map.

    Args:
        normal: Histogram of the pixels of normal images, each weighted with 1 / pixels of its image.
        defects: Histogram of anomalous pixels, each weighted with 1 / anomalous pixels of its image.
        num_normal_pixels: Number of pixels of normal images.

    Returns:
        The mean over images and the logarithm of the false positive rate, 0 to 1; NaN without anomalous pixels or with
        fewer normal ones than the lower rate needs.
    """
    lower, upper = AUPIMO_LIMITS
    if not defects.any() or num_normal_pixels * lower < 1:
        return float("nan")
    thresholds = np.flatnonzero(normal)[::-1]
    rates = np.cumsum(normal[thresholds]) / normal.sum()
    found = (np.cumsum(defects[::-1]) / defects.sum())[::-1][thresholds]
    curve = np.interp(np.linspace(np.log(lower), np.log(upper), NUM_RATES), np.log(rates), found)
    return float((curve[1:] + curve[:-1]).mean() / 2)


def _weighted_samples(negatives: Histogram, positives: Histogram) -> dict[str, NDArray[Any]]:
    """Turn two histograms into scikit-learn's arguments: one weighted sample per label and filled bin."""
    histograms = np.stack([negatives, positives])
    labels, bins = np.nonzero(histograms)
    return {"y_true": labels, "y_score": bins, "sample_weight": histograms[labels, bins]}
