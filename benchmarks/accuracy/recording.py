# SPDX-License-Identifier: Apache-2.0
"""Our evaluator, which also keeps what each test image scored: for a paired bootstrap afterwards.

Image scores are kept as they are. Maps are kept as histograms of their pixels: of the normal pixels of an image, of its
anomalous pixels, and of the latter with the weight 1 / area of their defect. From these, AUROC, AP, F1max and AUPRO of
any resample of images follow. The evaluator's bins, finer than 1/2048 of a score, are put together to at most
4,096, in each of which no category has more than a small share of its normal or anomalous pixels, unless one bin alone
has it.
"""

from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from anomalib.data import ImageBatch
from anomalib.utils.cv.connected_components import connected_components_cpu
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from numpy.typing import NDArray
from scipy.sparse import csr_array

from anomalib_vqflow import CategoryEvaluator
from anomalib_vqflow.evaluation.binning import NUM_BINS, bin_scores

NUM_GROUPS = 4096
KINDS = ("negatives", "positives", "region_overlaps")


class Histogram(NamedTuple):
    """Pixels of an image by the bin of their score; bins that it has no pixels in are left out."""

    bins: NDArray[np.int64]  # (n,)
    counts: NDArray[np.float64]  # (3, n), of the three KINDS


class Image(NamedTuple):
    """A test image with what it scored."""

    category: str
    name: str
    anomalous: bool
    score: float
    pixels: Histogram | None  # None without a mask


class RecordingEvaluator(CategoryEvaluator):
    """Report metrics per category, of all tests together, and keep the raw scores of every image.

    Attributes:
        images: All test images so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Image] = []
        self._earlier: dict[str, Any] = {}

    def compute(self) -> Any:  # noqa: ANN401  (a DataFrame, of pandas without types)
        """Compute the results of this test and of those before it, each of which had categories of its own."""
        self._metrics.update(self._earlier)
        self._earlier = dict(self._metrics)
        return super().compute()

    def _collect_scores(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: ImageBatch, *_: int
    ) -> None:
        super()._collect_scores(trainer, pl_module, outputs, batch)
        categories = {index: name for name, members in self._by_category(batch).items() for index in members}
        for index, path in enumerate(batch.image_path):
            pixels = None
            if batch.gt_mask is not None and batch.anomaly_map is not None:
                pixels = _histogram(batch.anomaly_map[index], batch.gt_mask[index])
            name = "/".join(PurePath(path).parts[-4:])
            score = float(batch.pred_score[index].float())
            self.images.append(Image(categories[index], name, bool(batch.gt_label[index]), score, pixels))


def _histogram(anomaly_map: Any, mask: Any) -> Histogram:  # noqa: ANN401  (tensors)
    mask = mask.squeeze().bool().cpu()
    bins, place = np.unique(bin_scores(anomaly_map.squeeze()).numpy().ravel(), return_inverse=True)
    defect = mask.numpy().ravel()
    shares = np.zeros(defect.shape)
    if defect.any():
        regions = connected_components_cpu(mask[None, None].int()).numpy().ravel()[defect]
        shares[defect] = 1 / np.bincount(regions)[regions]
    weights = (~defect).astype(float), defect.astype(float), shares
    return Histogram(bins.astype(np.int64), np.stack([np.bincount(place, weight) for weight in weights]))


def to_arrays(images: list[Image]) -> dict[str, NDArray[Any]]:
    """Put images together, by category and name, for a file.

    Args:
        images: The images.

    Returns:
        ``categories``, ``names``, ``anomalous``, ``scores`` and ``has_pixels``, shape ``(N,)``, and for each of the
        kinds of pixels the parts of a sparse matrix of images by groups of bins, see :func:`pixel_histograms`.
    """
    images = sorted(images, key=lambda image: (image.category, image.name))
    arrays: dict[str, NDArray[Any]] = {
        "categories": np.array([image.category for image in images]),
        "names": np.array([image.name for image in images]),
        "anomalous": np.array([image.anomalous for image in images]),
        "scores": np.array([image.score for image in images], dtype=np.float32),
        "has_pixels": np.array([image.pixels is not None for image in images]),
    }
    known = [(row, image.pixels) for row, image in enumerate(images) if image.pixels is not None]
    if not known:
        return arrays
    group_of_bin = _group(images)
    rows = np.concatenate([np.full(len(pixels.bins), row) for row, pixels in known])
    groups = group_of_bin[np.concatenate([pixels.bins for _, pixels in known])]
    counts = np.concatenate([pixels.counts for _, pixels in known], axis=1)
    for kind, values in zip(KINDS, counts, strict=True):
        filled = values > 0
        matrix = csr_array((values[filled], (rows[filled], groups[filled])), shape=(len(images), NUM_GROUPS))
        matrix.sum_duplicates()
        arrays[f"{kind}_data"] = matrix.data.astype(np.float32)
        arrays[f"{kind}_indices"] = matrix.indices.astype(np.int32)
        arrays[f"{kind}_indptr"] = matrix.indptr.astype(np.int64)
    return arrays


def pixel_histograms(arrays: dict[str, NDArray[Any]], kind: str) -> csr_array:
    """Take a kind of pixels from what :func:`to_arrays` gave.

    Args:
        arrays: The arrays, which have pixels.
        kind: One of the KINDS.

    Returns:
        Pixels of each image by the group of their score, ascending, shape ``(N, NUM_GROUPS)``.
    """
    parts = tuple(arrays[f"{kind}_{part}"] for part in ("data", "indices", "indptr"))
    return csr_array(parts, shape=(len(arrays["names"]), NUM_GROUPS))


def _group(images: list[Image]) -> NDArray[np.int64]:
    """Give every bin its group: the groups share out the pixels, each category's normal and anomalous ones alike."""
    totals: dict[tuple[str, int], NDArray[np.float64]] = {}
    for image in images:
        for kind in (0, 1) if image.pixels is not None else ():
            total = totals.setdefault((image.category, kind), np.zeros(NUM_BINS))
            total[image.pixels.bins] += image.pixels.counts[kind]
    shares = [total / total.sum() for total in totals.values() if total.any()]
    below = np.cumsum(np.mean(shares, axis=0)).clip(0, 1)
    return np.minimum(np.concatenate([[0], below[:-1]]) * NUM_GROUPS, NUM_GROUPS - 1).astype(np.int64)
