# SPDX-License-Identifier: Apache-2.0
"""AUPIMO, the per-image overlap at very few false alarms, from binned scores."""

import numpy as np
from numpy.typing import NDArray

Bins = NDArray[np.int32]
FALSE_POSITIVE_RATES = (1e-5, 1e-4)  # anomalib's default bounds
NUM_RATES = 300


class ImageOverlaps:
    """Normal images as one histogram, and the scores of the defects of each anomalous image.

    Source: Bertoldo et al., AUPIMO, 2024, https://arxiv.org/abs/2401.01984. Unlike anomalib's ``AUPIMO``, no anomaly
    map is kept, and thresholds are where the scores of normal pixels are.

    Args:
        num_bins: Number of bins of the scores.
    """

    def __init__(self, num_bins: int) -> None:
        self.normal_shares = np.zeros(num_bins)
        self.num_normal_images = 0
        self.num_normal_pixels = 0
        self.defects: list[Bins] = []

    def update(self, bins: Bins, masks: NDArray[np.bool_]) -> None:
        """Add images.

        Args:
            bins: Bin of each pixel's score, shape ``(B, H, W)``.
            masks: True where anomalous, shape ``(B, H, W)``.
        """
        anomalous = masks.any(axis=(1, 2))
        normal = bins[~anomalous]
        if len(normal):
            self.normal_shares += np.bincount(normal.ravel(), minlength=len(self.normal_shares)) / normal[0].size
            self.num_normal_images += len(normal)
            self.num_normal_pixels += normal.size
        self.defects += [np.sort(image[mask]) for image, mask in zip(bins[anomalous], masks[anomalous], strict=True)]

    def merge(self, other: "ImageOverlaps") -> None:
        """Add the images of another process or category."""
        self.normal_shares += other.normal_shares
        self.num_normal_images += other.num_normal_images
        self.num_normal_pixels += other.num_normal_pixels
        self.defects += other.defects

    def compute(self) -> float:
        """Average the found share of defects over anomalous images and the logarithm of the false positive rate.

        Returns:
            AUPIMO between false positive rates of 1e-5 and 1e-4 of normal images, 0 to 1; NaN without anomalous images
            or with fewer normal pixels than the lower rate needs.
        """
        lower, upper = FALSE_POSITIVE_RATES
        if not self.defects or self.num_normal_pixels * lower < 1:
            return float("nan")
        thresholds = np.flatnonzero(self.normal_shares)[::-1]
        rates = np.cumsum(self.normal_shares[thresholds]) / self.num_normal_images
        last = min(int(np.searchsorted(rates, upper)) + 1, len(rates))
        thresholds, rates = thresholds[:last], rates[:last]
        grid = np.geomspace(lower, upper, NUM_RATES)
        found = np.zeros(NUM_RATES)
        for defect in self.defects:
            share = 1 - np.searchsorted(defect, thresholds) / len(defect)
            found += np.interp(np.log(grid), np.log(rates), share)
        curve = found / len(self.defects)
        return float((curve[1:] + curve[:-1]).mean() / 2)
