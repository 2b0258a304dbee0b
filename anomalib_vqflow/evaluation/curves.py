# SPDX-License-Identifier: Apache-2.0
"""Threshold metrics from counts of normal and anomalous scores; ties are handled exactly."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
NOT_EVALUABLE = float("nan")


class ScoreCounts(NamedTuple):
    """How many normal and anomalous scores have each value.

    Attributes:
        negatives: Normal scores per value, ascending by value, shape ``(V,)``.
        positives: Anomalous scores per value, shape ``(V,)``.
    """

    negatives: Counts
    positives: Counts


class DetectionMetrics(NamedTuple):
    """Metrics over all thresholds; each is NaN without both normal and anomalous scores.

    Attributes:
        auroc: Area under the ROC curve, 0 to 1.
        average_precision: Step-wise area under the precision-recall curve, 0 to 1.
        f1_max: Largest F1 score over the thresholds, 0 to 1.
    """

    auroc: float
    average_precision: float
    f1_max: float


def count_scores(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> ScoreCounts:
    """Count scores exactly, one value per distinct score.

    Args:
        scores: Anomaly scores, shape ``(N,)``.
        labels: True where anomalous, shape ``(N,)``.

    Returns:
        The counts.

    Example:
        >>> count_scores(np.float32([3, 1, 3]), np.array([True, False, False])).negatives.tolist()
        [1, 1]
    """
    values, inverse = np.unique(scores, return_inverse=True)
    positives = np.bincount(inverse[labels], minlength=len(values))
    return ScoreCounts(np.bincount(inverse[~labels], minlength=len(values)), positives)


def detection_metrics(counts: ScoreCounts) -> DetectionMetrics:
    """Compute AUROC, average precision and the best F1 score.

    A tie between a normal and an anomalous score counts half in AUROC and shares a threshold elsewhere.

    Args:
        counts: Scores per value.

    Returns:
        The metrics, NaN if normal or anomalous scores are missing.

    Example:
        >>> detection_metrics(ScoreCounts(np.array([2, 1, 0]), np.array([0, 1, 1]))).auroc
        0.9166666666666666
    """
    true_positives, false_positives = np.cumsum(counts.positives[::-1]), np.cumsum(counts.negatives[::-1])
    num_positives, num_negatives = _totals(counts)
    if not num_positives or not num_negatives:
        return DetectionMetrics(NOT_EVALUABLE, NOT_EVALUABLE, NOT_EVALUABLE)
    higher_positives = true_positives[::-1] - counts.positives / 2
    auroc = float(counts.negatives @ higher_positives) / (num_positives * num_negatives)
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.ones(len(flagged)), where=flagged > 0)
    average_precision = float(counts.positives[::-1] @ precision) / num_positives
    f1_max = float(np.max(2 * true_positives / (flagged + num_positives)))
    return DetectionMetrics(auroc, average_precision, f1_max)


def tie_error(counts: ScoreCounts) -> float:
    """Bound how far AUROC can lie from its exact value because different scores share a bin.

    Args:
        counts: Scores per bin.

    Returns:
        Largest possible absolute error of AUROC, 0 to 0.5; NaN if normal or anomalous scores are missing.
    """
    num_positives, num_negatives = _totals(counts)
    if not num_positives or not num_negatives:
        return NOT_EVALUABLE
    return float(counts.negatives @ (counts.positives / 2)) / (num_positives * num_negatives)


def region_overlap(negatives: Counts, overlaps: NDArray[np.float64], num_regions: int, limit: float) -> float:
    """Compute AUPRO: mean overlap with the defects, averaged over false positive rates up to a limit.

    Args:
        negatives: Normal pixels per bin, ascending, shape ``(V,)``.
        overlaps: Pixels of defects per bin, each weighted with 1 / area of its defect, shape ``(V,)``.
        num_regions: Number of defects, that is of connected regions.
        limit: Largest false positive rate, in (0, 1].

    Returns:
        The area divided by ``limit``, 0 to 1; NaN without normal pixels or defects.
    """
    total = int(negatives.sum())
    if not num_regions or not total:
        return NOT_EVALUABLE
    rate = np.concatenate([[0.0], np.cumsum(negatives[::-1]) / total])
    overlap = np.concatenate([[0.0], np.cumsum(overlaps[::-1]) / num_regions])
    last = int(np.searchsorted(rate, limit, side="right"))
    at_limit = float(np.interp(limit, rate, overlap))
    rate, overlap = np.append(rate[:last], limit), np.append(overlap[:last], at_limit)
    return float(np.sum(np.diff(rate) * (overlap[1:] + overlap[:-1]) / 2)) / limit


def _totals(counts: ScoreCounts) -> tuple[int, int]:
    return int(counts.positives.sum()), int(counts.negatives.sum())
