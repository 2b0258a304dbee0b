# SPDX-License-Identifier: Apache-2.0
"""What validation collects to set thresholds by: scores of all images, or of normal ones."""

import torch
from anomalib.data import Batch
from anomalib.metrics import F1AdaptiveThreshold
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from .conformal import MARGIN


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


class NormalScores(Metric):
    """Scores, highest values of the map, and concepts of normal images.

    Example:
        >>> from anomalib.data import ImageBatch
        >>> normal = NormalScores()
        >>> labels, maps = torch.tensor([0, 1]), torch.tensor([0.5, 0.9]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
        >>> images, scores = torch.zeros(2, 3, 8, 8), torch.ones(2)
        >>> batch = ImageBatch(image=images, pred_score=scores, anomaly_map=maps, gt_label=labels)
        >>> normal.update(batch)
        >>> normal.compute()
        tensor([[1.0000, 0.5000, 0.0000]])
    """

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, batch: Batch) -> None:
        """Add the normal images of a batch.

        Args:
            batch: Predictions with labels; one without them adds nothing.
        """
        if batch.gt_label is None or batch.pred_score is None:
            return
        score = batch.pred_score.detach().float().flatten()
        peak = score if batch.anomaly_map is None else batch.anomaly_map.detach().float().flatten(1).amax(dim=1)
        concept = getattr(batch, "concept", None)
        rows = torch.stack((score, peak, torch.zeros_like(score) if concept is None else concept.to(score)), dim=1)
        self.rows.append(rows[batch.gt_label.flatten() == 0])

    def compute(self) -> Tensor:
        """Give score, highest value of the map, and concept of each image, shape ``(n, 3)``."""
        return dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0, 3)
