# SPDX-License-Identifier: Apache-2.0
"""Metrics over all thresholds, collected batch by batch: exact for images, in bins for pixels."""

import numpy as np
import torch
from anomalib.utils.cv.connected_components import connected_components_cpu
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from .binning import NUM_BINS, histogram
from .curves import aupimo, aupro, curve_metrics


class ImageScores(Metric):
    """Exact metrics of raw image scores; torchmetrics' own would apply a sigmoid to scores outside of [0, 1]."""

    full_state_update = False
    normal: list[Tensor] | Tensor
    anomalous: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("normal", [], dist_reduce_fx="cat")
        self.add_state("anomalous", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            scores: Raw anomaly scores, shape ``(B,)``; NaN counts as the lowest score, as no threshold flags it.
            labels: True where anomalous, shape ``(B,)``.
        """
        scores, labels = torch.nan_to_num(scores.float(), nan=-torch.inf).cpu(), labels.bool().cpu()
        self.normal.append(scores[~labels])  # type: ignore[union-attr]
        self.anomalous.append(scores[labels])  # type: ignore[union-attr]

    def compute(self) -> dict[str, float]:
        """Compute what :func:`curve_metrics` does, and the numbers of ``normal`` and ``anomalous`` images."""
        normal, anomalous = (
            dim_zero_cat(scores).cpu().numpy() if len(scores) else np.zeros(0, dtype=np.float32)
            for scores in (self.normal, self.anomalous)
        )
        _, bins = np.unique(np.concatenate([normal, anomalous]), return_inverse=True)  # one bin for each distinct score
        negatives, positives = (np.bincount(part, minlength=len(bins)) for part in np.split(bins, [len(normal)]))
        return {"normal": len(normal), "anomalous": len(anomalous), **curve_metrics(negatives, positives)}


class PixelScores(Metric):
    """Metrics of binned pixel scores, in 26 MB of memory independent of the number of images.

    Args:
        aupimo: Whether to compute AUPIMO, too, in another 18 MB.
    """

    full_state_update = False
    negatives: Tensor
    positives: Tensor
    region_overlaps: Tensor
    normal_shares: Tensor
    defect_shares: Tensor
    num_normal_pixels: Tensor

    def __init__(self, aupimo: bool) -> None:
        super().__init__(dist_sync_fn=_gather_histograms)
        self.aupimo = aupimo
        # One zero, which broadcasts: a category without masks needs no memory, and torchmetrics keeps a copy.
        self.add_state("negatives", torch.zeros(1, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("positives", torch.zeros(1, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("region_overlaps", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="sum")
        if aupimo:
            self.add_state("normal_shares", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("defect_shares", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("num_normal_pixels", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, bins: Tensor, masks: Tensor) -> None:
        """Add images.

        Args:
            bins: Bin of each pixel's score, shape ``(B, H, W)``.
            masks: True where anomalous, shape ``(B, H, W)``.
        """
        self.negatives = self.negatives + histogram(bins[~masks])
        anomalous = masks.any(dim=2).any(dim=1)
        if self.aupimo:
            normal = bins[~anomalous].flatten()
            self.normal_shares = self.normal_shares + histogram(normal) / masks[0].numel()
            self.num_normal_pixels = self.num_normal_pixels + len(normal)
        if not anomalous.any():
            return
        inside, images = bins[masks], masks.nonzero()[:, 0]
        regions = connected_components_cpu(masks[:, None].int())[:, 0][masks]
        regions = regions + images * (regions.max() + 1)  # anomalib gives every full mask the label 0
        self.positives = self.positives + histogram(inside)
        self.region_overlaps = self.region_overlaps + histogram(inside, _shares(regions))
        if self.aupimo:
            self.defect_shares = self.defect_shares + histogram(inside, _shares(images))

    def compute(self) -> dict[str, float]:
        """Compute what :func:`curve_metrics` does, AUPRO, AUPIMO, and the number of ``anomalous`` pixels."""
        state = {name: torch.as_tensor(value).cpu().numpy() for name, value in self.metric_state.items()}
        metrics = curve_metrics(state["negatives"], state["positives"])
        metrics["AUPRO"] = aupro(state["negatives"], state["region_overlaps"])
        if self.aupimo:
            metrics["AUPIMO"] = aupimo(state["normal_shares"], state["defect_shares"], int(state["num_normal_pixels"]))
        return {**metrics, "anomalous": int(state["positives"].sum())}


def _gather_histograms(state: Tensor, group: object = None) -> list[Tensor]:
    """Gather a state of all processes, of which some may have no pixels: zeros in full, so that shapes agree."""
    return gather_all_tensors(state.expand(NUM_BINS) if state.ndim else state, group)


def _shares(groups: Tensor) -> Tensor:
    """Weigh each pixel with 1 / size of its group."""
    return (1 / torch.bincount(groups).double())[groups]
