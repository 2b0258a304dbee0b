# SPDX-License-Identifier: Apache-2.0
"""Scores and decisions of one category, and how processes put theirs together."""

import torch

from .report import CategoryRow
from .scores import DecisionCounts, ImageScores, PixelScores


class CategoryScores:
    """All that is kept of one category.

    Args:
        aupimo: Whether to collect what AUPIMO needs, too.
    """

    def __init__(self, aupimo: bool = False) -> None:
        self.aupimo = aupimo
        self.images = ImageScores()
        self.image_decisions = DecisionCounts()
        self.pixels: PixelScores | None = None
        self.pixel_decisions = DecisionCounts()

    @property
    def has_masks(self) -> bool:
        """Whether pixels are known to be normal or anomalous: not if the masks of all anomalous images are empty."""
        return self.pixels is not None and (self.pixels.num_regions > 0 or not self.images.counts()[1])

    def merge(self, other: "CategoryScores", pixels: bool = True) -> None:
        """Add the scores of another process or category.

        Args:
            other: The scores to add.
            pixels: Whether to add those of pixels, too.
        """
        self.images.merge(other.images)
        self.image_decisions.merge(other.image_decisions)
        if pixels and other.pixels is not None:
            self.pixels = self.pixels or PixelScores(self.aupimo)
            self.pixels.merge(other.pixels)
            self.pixel_decisions.merge(other.pixel_decisions)

    def row(self) -> CategoryRow:
        """Compute all metrics."""
        nan = float("nan")
        image = self.images.compute()
        metrics = {
            "image_AUROC": image.auroc,
            "image_AP": image.average_precision,
            "image_F1Max": image.f1_max,
            "image_F1Score": self.image_decisions.f1(),
        }
        pixels = self.pixels if self.pixels is not None and self.pixels.num_regions else None
        pixel = pixels.compute() if pixels else None
        metrics |= {
            "pixel_AUROC": pixel.auroc if pixel else nan,
            "pixel_AP": pixel.average_precision if pixel else nan,
            "pixel_F1Max": pixel.f1_max if pixel else nan,
            "pixel_F1Score": self.pixel_decisions.f1(),
            "pixel_AUPRO": pixels.aupro() if pixels else nan,
        }
        if self.aupimo:
            metrics["pixel_AUPIMO"] = pixels.aupimo() if pixels else nan
        return CategoryRow(*self.images.counts(), metrics)


def gather(scores: dict[str, CategoryScores]) -> dict[str, CategoryScores]:
    """Put together the scores of all processes.

    Args:
        scores: Scores of this process by category.

    Returns:
        Scores by category, the same in every process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return scores
    parts: list[dict[str, CategoryScores]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, scores)
    merged: dict[str, CategoryScores] = {}
    for part in parts:
        for name, category_scores in part.items():
            merged.setdefault(name, CategoryScores(category_scores.aupimo)).merge(category_scores)
    return merged
