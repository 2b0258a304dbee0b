# SPDX-License-Identifier: Apache-2.0
"""Scores of one category, collected batch by batch in bounded memory."""

import numpy as np
import torch
from anomalib.utils.cv.connected_components import connected_components_cpu
from numpy.typing import NDArray
from torch import Tensor

from .curves import DetectionMetrics, ScoreCounts, count_scores, detection_metrics, region_overlap, tie_error
from .overlap import ImageOverlaps

DROPPED_BITS = 12  # of the 23 bits of a float32's mantissa
BINS_PER_OCTAVE = 2 ** (23 - DROPPED_BITS)
OCTAVES_BELOW_ONE = 24  # distances from 1 to the float32 below it go down to 2**-24
NUM_BINS = 2 ** (32 - DROPPED_BITS) + OCTAVES_BELOW_ONE * BINS_PER_OCTAVE
AUPRO_LIMIT = 0.3


class DecisionCounts:
    """Right and wrong decisions, for the F1 score at the model's own threshold."""

    def __init__(self) -> None:
        self.true_positives = self.false_positives = self.false_negatives = self.decisions = 0

    def update(self, decisions: Tensor, labels: Tensor) -> None:
        """Add decisions.

        Args:
            decisions: True where the model found an anomaly, any shape.
            labels: True where there is one, same shape.
        """
        decisions, labels = decisions.bool(), labels.bool()
        self.true_positives += int((decisions & labels).sum())
        self.false_positives += int((decisions & ~labels).sum())
        self.false_negatives += int((~decisions & labels).sum())
        self.decisions += decisions.numel()

    def merge(self, other: "DecisionCounts") -> None:
        """Add the decisions of another process or category."""
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives
        self.decisions += other.decisions

    def f1(self) -> float:
        """Compute the F1 score; NaN without an anomaly."""
        anomalies = self.true_positives + self.false_negatives
        if not anomalies:
            return float("nan")
        return 2 * self.true_positives / (self.true_positives + self.false_positives + anomalies)


class ImageScores:
    """Anomaly scores and labels of images."""

    def __init__(self) -> None:
        self.scores: list[NDArray[np.float32]] = []
        self.labels: list[NDArray[np.bool_]] = []

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            scores: Raw anomaly scores, shape ``(B,)``; NaN counts as the lowest score, as no threshold flags it.
            labels: True where anomalous, shape ``(B,)``.
        """
        self.scores.append(torch.nan_to_num(scores.float(), nan=-torch.inf).cpu().numpy())
        self.labels.append(labels.bool().cpu().numpy())

    def merge(self, other: "ImageScores") -> None:
        """Add the images of another process or category."""
        self.scores += other.scores
        self.labels += other.labels

    def counts(self) -> tuple[int, int]:
        """Count normal and anomalous images."""
        anomalous = sum(int(labels.sum()) for labels in self.labels)
        return sum(len(labels) for labels in self.labels) - anomalous, anomalous

    def compute(self) -> DetectionMetrics:
        """Compute the metrics, exactly."""
        if not self.scores:
            return detection_metrics(ScoreCounts(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)))
        return detection_metrics(count_scores(np.concatenate(self.scores), np.concatenate(self.labels)))


class PixelScores:
    """Anomaly scores of pixels, in bins.

    A bin holds the scores that agree in sign, exponent and the first 11 bits of their mantissa, so that its width is
    below 1/2048 of the score, whatever the scale of the scores. Between 0.5 and 1 it is also below 1/1024 of the
    distance to 1, for maps that come close to 1. That takes 26 MB, independent of the number of images.

    Args:
        aupimo: Whether to collect what AUPIMO needs, too: another 9 MB, and 4 bytes for every pixel of a defect.
    """

    def __init__(self, aupimo: bool = False) -> None:
        self.image_overlaps = ImageOverlaps(NUM_BINS) if aupimo else None
        self.negatives = np.zeros(NUM_BINS, dtype=np.int64)
        self.positives = np.zeros(NUM_BINS, dtype=np.int64)
        self.overlaps = np.zeros(NUM_BINS)
        self.num_regions = 0

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images.

        Args:
            maps: Raw anomaly maps, shape ``(B, H, W)``.
            masks: True where anomalous, shape ``(B, H, W)``.

        Raises:
            ValueError: If maps and masks differ in shape.
        """
        if maps.shape != masks.shape:
            msg = (
                f"Anomaly maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have equal shapes; "
                "let the model resize its maps to its input."
            )
            raise ValueError(msg)
        bins, masks = bin_scores(maps), masks.bool().cpu()
        mask = masks.numpy()
        if self.image_overlaps is not None:
            self.image_overlaps.update(bins, mask)
        self.negatives += np.bincount(bins[~mask], minlength=NUM_BINS)
        for image_bins, image_mask in zip(bins, masks, strict=True):
            if not image_mask.any():
                continue
            regions = connected_components_cpu(image_mask[None, None].float())[0, 0].long().numpy()
            regions, inside = regions[image_mask.numpy()], image_bins[image_mask.numpy()]
            areas = np.bincount(regions)
            self.positives += np.bincount(inside, minlength=NUM_BINS)
            self.overlaps += np.bincount(inside, weights=1 / areas[regions], minlength=NUM_BINS)
            self.num_regions += int((areas > 0).sum())

    def __getstate__(self) -> dict[str, object]:
        """Keep filled bins only, for sending between processes."""
        return {
            name: (filled := np.flatnonzero(value), value[filled]) if isinstance(value, np.ndarray) else value
            for name, value in self.__dict__.items()
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore all bins."""
        for name, value in state.items():
            if isinstance(value, tuple):
                filled, counts = value
                value = np.zeros(NUM_BINS, dtype=counts.dtype)
                value[filled] = counts
            self.__dict__[name] = value

    def merge(self, other: "PixelScores") -> None:
        """Add the pixels of another process or category."""
        self.negatives += other.negatives
        self.positives += other.positives
        self.overlaps += other.overlaps
        self.num_regions += other.num_regions
        if self.image_overlaps is not None and other.image_overlaps is not None:
            self.image_overlaps.merge(other.image_overlaps)

    def compute(self) -> DetectionMetrics:
        """Compute the metrics, up to the width of the bins."""
        return detection_metrics(ScoreCounts(self.negatives, self.positives))

    def aupro(self) -> float:
        """Compute AUPRO up to a false positive rate of 0.3."""
        return region_overlap(self.negatives, self.overlaps, self.num_regions, AUPRO_LIMIT)

    def aupimo(self) -> float:
        """Compute AUPIMO; NaN if it was not asked for."""
        return float("nan") if self.image_overlaps is None else self.image_overlaps.compute()

    def error(self) -> float:
        """Bound the error that the bins make in AUROC."""
        return tie_error(ScoreCounts(self.negatives, self.positives))


def bin_scores(scores: Tensor) -> NDArray[np.int32]:
    """Sort scores into bins, keeping their order.

    Args:
        scores: Scores of any shape and sign; NaN goes to the lowest bin.

    Returns:
        Bins from 0 to ``NUM_BINS - 1``, same shape.

    Example:
        >>> bins = bin_scores(torch.tensor([-1.0, 0.0, 1e-3, 5.0]))
        >>> bool((np.diff(bins) > 0).all())
        True
    """
    values = torch.nan_to_num(scores.detach().float(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    array = values.cpu().numpy() + np.float32(0)  # -0 becomes 0
    bins = _leading_bits(array)
    half, stretched = _leading_bits(np.array([0.5], dtype=np.float32))[0], OCTAVES_BELOW_ONE * BINS_PER_OCTAVE
    distance = np.maximum(1 - array, np.float32(2.0 ** -(OCTAVES_BELOW_ONE + 1)))
    below_one = half + (half - _leading_bits(distance))
    above_one = bins + (stretched - BINS_PER_OCTAVE)
    bins = np.where(array <= 0.5, bins, np.where(array <= 1, below_one, above_one))
    return bins + 2 ** (31 - DROPPED_BITS)


def _leading_bits(values: NDArray[np.float32]) -> NDArray[np.int32]:
    bits = values.view(np.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats are in reverse order
    return ordered >> DROPPED_BITS
