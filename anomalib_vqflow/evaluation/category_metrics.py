# SPDX-License-Identifier: Apache-2.0
"""All metrics of one category, or of several together."""

import warnings
from typing import NamedTuple

from torch import Tensor, nn
from torchmetrics.classification import BinaryStatScores

from .binning import bin_scores
from .scores import ImageScores, PixelScores


class CategoryResult(NamedTuple):
    """Results of one category.

    Attributes:
        row: Numbers of ``normal`` and ``anomalous`` images, and metrics as ``image_AUROC``; NaN where not evaluable.
        has_masks: Whether pixels are known to be normal or anomalous: not if all masks of anomalous images are empty.
        binning_error: Largest possible error of pixel AUROC; NaN where not evaluable.
    """

    row: dict[str, float]
    has_masks: bool
    binning_error: float


class CategoryMetrics(nn.Module):
    """Metrics of one category: of raw scores over all thresholds, and of decisions at the model's own threshold."""

    def __init__(self, aupimo: bool) -> None:
        super().__init__()
        self.image_scores = ImageScores()
        self.image_decisions = BinaryStatScores(validate_args=False)
        self.pixel_scores = PixelScores(aupimo)
        self.pixel_decisions = BinaryStatScores(validate_args=False)

    def update_pixel_scores(self, maps: Tensor, masks: Tensor) -> None:
        """Add anomaly maps.

        Args:
            maps: Raw anomaly maps, shape ``(B, H, W)`` or ``(B, 1, H, W)``.
            masks: True where anomalous, shape ``(B, H, W)`` or ``(B, 1, H, W)``.

        Raises:
            ValueError: If maps and masks differ in height or width.
        """
        maps, masks = maps.flatten(0, -3), masks.flatten(0, -3)  # (B, H, W)
        if maps.shape != masks.shape:
            msg = (
                f"Anomaly maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have equal shapes; "
                "let the model resize its maps to its input."
            )
            raise ValueError(msg)
        self.pixel_scores.update(bin_scores(maps), masks.bool().cpu())

    def merge(self, other: "CategoryMetrics", pixels: bool) -> None:
        """Add the images of another category, as far as this process has them.

        Args:
            other: Metrics of the other category.
            pixels: Whether to add its pixels, too.
        """
        self.image_scores.merge_state(other.image_scores)
        self.image_decisions.merge_state(other.image_decisions)
        if pixels:
            self.pixel_scores.merge_state(other.pixel_scores)
            self.pixel_decisions.merge_state(other.pixel_decisions)

    def compute(self) -> CategoryResult:
        """Compute the results over all processes; each of them has to call this."""
        with warnings.catch_warnings():  # what is merged, or of a process without images, was never updated
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            image, pixel = self.image_scores.compute(), self.pixel_scores.compute()
            row = {
                "normal": image["normal"],
                "anomalous": image["anomalous"],
                "image_AUROC": image["AUROC"],
                "image_AP": image["AP"],
                "image_F1Max": image["F1Max"],
                "image_F1Score": _f1_score(self.image_decisions),
                "pixel_AUROC": pixel["AUROC"],
                "pixel_AP": pixel["AP"],
                "pixel_F1Max": pixel["F1Max"],
                "pixel_F1Score": _f1_score(self.pixel_decisions),
                "pixel_AUPRO": pixel["AUPRO"],
            }
            if "AUPIMO" in pixel:
                row["pixel_AUPIMO"] = pixel["AUPIMO"]
        return CategoryResult(row, pixel["anomalous"] > 0 or not image["anomalous"], pixel["AUROC_error"])


def _f1_score(decisions: BinaryStatScores) -> float:
    true_positives, false_positives, _, _, anomalies = decisions.compute().tolist()
    return 2 * true_positives / (true_positives + false_positives + anomalies) if anomalies else float("nan")
