# SPDX-License-Identifier: Apache-2.0
"""Metrics over all thresholds, collected batch by batch: exact for images, in bins for pixels."""

import numpy as np
import torch
from anomalib.utils.cv.connected_components import connected_components_cpu
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from .binning import NUM_BINS, add_histograms, all_bins, histogram
from .curves import aupimo, aupro, curve_metrics

HISTOGRAMS = ("negatives", "positives", "region_overlaps")
AUPIMO_HISTOGRAMS = ("normal_shares", "defect_shares")


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
    """Metrics of binned pixel scores, in memory that does not grow with the number of images: some hundred kilobytes.

    Args:
        aupimo: Whether to compute AUPIMO, too.
    """

    full_state_update = False
    negatives: list[Tensor]
    positives: list[Tensor]
    region_overlaps: list[Tensor]
    normal_shares: list[Tensor]
    defect_shares: list[Tensor]
    num_normal_pixels: Tensor

    def __init__(self, aupimo: bool) -> None:
        super().__init__(dist_sync_fn=_gather_histograms)
        self.aupimo = aupimo
        for name in (*HISTOGRAMS, *(AUPIMO_HISTOGRAMS if aupimo else ())):
            self.add_state(name, [], dist_reduce_fx="cat")
        if aupimo:
            self.add_state("num_normal_pixels", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, bins: Tensor, masks: Tensor) -> None:
        """Add images.

        Args:
            bins: Bin of each pixel's score, shape ``(B, H, W)``.
            masks: True where anomalous, shape ``(B, H, W)``.
        """
        self._add("negatives", histogram(bins[~masks]))
        anomalous = masks.any(dim=2).any(dim=1)
        if self.aupimo:
            normal = bins[~anomalous].flatten()
            self._add("normal_shares", histogram(normal, torch.full(normal.shape, 1 / masks[0].numel()).double()))
            self.num_normal_pixels = self.num_normal_pixels + len(normal)
        if not anomalous.any():
            return
        inside, images = bins[masks], masks.nonzero()[:, 0]
        regions = connected_components_cpu(masks[:, None].int())[:, 0][masks]
        regions = regions + images * (regions.max() + 1)  # anomalib gives every full mask the label 0
        self._add("positives", histogram(inside))
        self._add("region_overlaps", histogram(inside, _shares(regions)))
        if self.aupimo:
            self._add("defect_shares", histogram(inside, _shares(images)))

    def _add(self, name: str, found: Tensor) -> None:
        setattr(self, name, [add_histograms([*getattr(self, name), found])])

    def compute(self) -> dict[str, float]:
        """Compute what :func:`curve_metrics` does, AUPRO, AUPIMO, and the number of ``anomalous`` pixels."""
        state = {name: _all_bins(value) for name, value in self.metric_state.items() if name != "num_normal_pixels"}
        metrics = curve_metrics(state["negatives"], state["positives"])
        metrics["AUPRO"] = aupro(state["negatives"], state["region_overlaps"])
        if self.aupimo:
            metrics["AUPIMO"] = aupimo(state["normal_shares"], state["defect_shares"], int(self.num_normal_pixels))
        return {**metrics, "anomalous": int(state["positives"].sum())}


def _gather_histograms(state: Tensor, group: object = None) -> list[Tensor]:
    """Gather a state of all processes; for one without pixels torchmetrics offers a vector of another type."""
    return gather_all_tensors(state.double().view(-1, 2) if state.ndim else state, group)


def _all_bins(histograms: list[Tensor] | Tensor) -> NDArray[np.float64]:
    """Add up what was collected, merged, or gathered of all processes."""
    return all_bins(dim_zero_cat(histograms)) if len(histograms) else np.zeros(NUM_BINS)


def _shares(groups: Tensor) -> Tensor:
    """Weigh each pixel with 1 / size of its group."""
    return (1 / torch.bincount(groups).double())[groups]
