# SPDX-License-Identifier: Apache-2.0
"""Thresholds that lie between the scores they were set by, and no label without a threshold."""

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

MARGIN = 1e-3
"""Distance of a threshold from the outermost score, in ranges of the scores; runtimes differ by a tenth of that."""


class SeparatingThreshold(F1AdaptiveThreshold):
    """anomalib's threshold of the best F1 score, moved off the score that it was found at.

    anomalib finds the best F1 score at a score from which on images count as anomalous, then calls anomalous only what
    is above it: that image is lost, and rounding decides about it in other runtimes. Here the threshold lies halfway to
    the next lower score. Where all scores are from normal or all from anomalous images, it lies outside of them.

    Example:
        >>> from anomalib.data import ImageBatch
        >>> threshold = SeparatingThreshold(fields=["pred_score", "gt_label"])
        >>> scores, labels = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([0, 0, 1, 1])
        >>> threshold.update(ImageBatch(image=torch.zeros(4, 3, 8, 8), pred_score=scores, gt_label=labels))
        >>> threshold.compute()
        tensor(0.5000)
    """

    def compute(self) -> Tensor:  # type: ignore[override]  # as anomalib's
        """Compute the threshold, a scalar."""
        found = super().compute()
        scores = dim_zero_cat(self.preds).to(found)
        lowest, highest = scores.aminmax()
        margin = MARGIN * (highest - lowest)
        if not self._has_anomalous_samples():
            return found + margin
        lower = scores[scores < found]
        return (found + lower.max()) / 2 if len(lower) else found - margin


class SeparatingPostProcessor(PostProcessor):
    """anomalib's post-processor with thresholds between scores, and without labels where there is no threshold.

    Where validation did not set a threshold, scores and maps stay as the model gives them, and ``pred_label`` and
    ``pred_mask`` are None; anomalib's would hold them against 0.5.

    Args:
        enable_normalization: As in anomalib's ``PostProcessor``, as are all others.
        enable_thresholding: Whether to tell labels and masks.
        enable_threshold_matching: Whether images and pixels share a threshold where only one of both is known.
        image_sensitivity: 0 to 1; more makes more images anomalous.
        pixel_sensitivity: The same for pixels.
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        super().__init__(
            enable_normalization, enable_thresholding, enable_threshold_matching, image_sensitivity, pixel_sensitivity
        )
        self._image_threshold_metric = SeparatingThreshold(fields=["pred_score", "gt_label"], strict=False)
        self._pixel_threshold_metric = SeparatingThreshold(fields=["anomaly_map", "gt_mask"], strict=False)
        self._known = (False, False)

    def reset_(self) -> None:
        """Forget thresholds and ranges, because the weights whose scores set them change."""
        for buffer in self.buffers(recurse=False):
            buffer.fill_(torch.nan)

    @property
    def known(self) -> tuple[bool, bool]:
        """Whether there is a threshold for images, and one for pixels.

        While the model is exported, as it was before: values of tensors are not known then.
        """
        if not torch.compiler.is_exporting():
            self._known = (not self.image_threshold.isnan().item(), not self.pixel_threshold.isnan().item())
        return self._known

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalize scores and maps, and hold them against the thresholds, where there are any.

        Args:
            predictions: Raw scores and maps.

        Returns:
            Scores and maps in [0, 1], and labels and masks, or None.
        """
        found = super().forward(predictions)
        has_image, has_pixel = self.known
        return found._replace(
            pred_label=found.pred_label if has_image else None, pred_mask=found.pred_mask if has_pixel else None
        )

    def threshold_batch(self, batch: Batch) -> None:
        """Add labels and masks to a batch, where there are thresholds.

        Args:
            batch: Predictions after normalization.
        """
        given = batch.pred_label, batch.pred_mask
        super().threshold_batch(batch)
        has_image, has_pixel = self.known
        batch.pred_label = batch.pred_label if has_image else given[0]
        batch.pred_mask = batch.pred_mask if has_pixel else given[1]

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        normalized = PostProcessor._normalize(preds, norm_min, norm_max, threshold)  # noqa: SLF001
        # anomalib would take the middle of the range for the threshold.
        if preds is None or normalized is None:
            return None
        return torch.where(threshold.isnan(), preds, normalized)
