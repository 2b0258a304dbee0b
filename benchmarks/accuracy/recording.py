# SPDX-License-Identifier: Apache-2.0
"""Our evaluator, which also keeps what each test image scored: for a paired bootstrap afterwards.

Image scores are kept as they are. Maps are kept as histograms of their pixels: of the normal pixels of an image, of its
anomalous pixels, and of the latter with the weight 1 / area of their defect. From these, AUROC, AP, F1max and AUPRO of
any resample of images follow. The evaluator's bins, finer than 1/2048 of a score, are put together to groups, for each
category by itself and once more for all of them: many groups where there are many normal or anomalous pixels, and many
among the highest scores of normal pixels, on which precision depends.
"""

from collections import defaultdict
from collections.abc import Mapping
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

NUM_GROUPS = {"own": 2048, "pooled": 4096}  # of a category by itself, and of all together
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
    concept: int | None = None  # of a model that finds concepts


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
            concept = int(batch.concept[index]) if hasattr(batch, "concept") else None
            self.images.append(Image(categories[index], name, bool(batch.gt_label[index]), score, pixels, concept))


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
        ``categories``, ``names``, ``anomalous``, ``scores`` and ``has_pixels``, shape ``(N,)``, and what
        :func:`pixel_histograms` reads.
    """
    images = sorted(images, key=lambda image: (image.category, image.name))
    arrays: dict[str, NDArray[Any]] = {
        "categories": np.array([image.category for image in images]),
        "names": np.array([image.name for image in images]),
        "anomalous": np.array([image.anomalous for image in images]),
        "scores": np.array([image.score for image in images], dtype=np.float32),
        "has_pixels": np.array([image.pixels is not None for image in images]),
    }
    known = {row: image for row, image in enumerate(images) if image.pixels is not None}
    if known:
        scopes: defaultdict[str, list[int]] = defaultdict(list)
        for row, image in known.items():
            scopes[image.category].append(row)
        own = {name: _group([images[row].pixels for row in rows], "own") for name, rows in scopes.items()}
        pooled = _group([image.pixels for image in known.values()], "pooled")
        arrays |= _matrices(known, {row: own[image.category] for row, image in known.items()}, "own", len(images))
        arrays |= _matrices(known, dict.fromkeys(known, pooled), "pooled", len(images))
    return arrays


def pixel_histograms(arrays: Mapping[str, NDArray[Any]], scope: str) -> tuple[csr_array, csr_array, csr_array]:
    """Take the pixels from what :func:`to_arrays` gave.

    Args:
        arrays: The arrays, which have pixels.
        scope: ``own`` for groups of each category by itself, ``pooled`` for groups of all together.

    Returns:
        For each of the KINDS, pixels of each image by the group of their score, ascending, shape ``(N, groups)``.
    """
    shape = len(arrays["names"]), NUM_GROUPS[scope]
    matrices = (
        csr_array(tuple(arrays[f"{scope}_{kind}_{part}"] for part in ("data", "indices", "indptr")), shape=shape)
        for kind in KINDS
    )
    negatives, positives, overlaps = matrices
    return negatives, positives, overlaps


def _matrices(
    known: Mapping[int, Image], groups: Mapping[int, NDArray[np.int64]], scope: str, num_images: int
) -> dict[str, NDArray[Any]]:
    """Write the histograms of images, by row, in the groups that each row's bins belong to."""
    rows = np.concatenate([np.full(len(image.pixels.bins), row) for row, image in known.items()])
    columns = np.concatenate([groups[row][image.pixels.bins] for row, image in known.items()])
    counts = np.concatenate([image.pixels.counts for image in known.values()], axis=1)
    arrays = {}
    for kind, values in zip(KINDS, counts, strict=True):
        filled = values > 0
        place = rows[filled], columns[filled]
        matrix = csr_array((values[filled], place), shape=(num_images, NUM_GROUPS[scope]))
        matrix.sum_duplicates()
        arrays[f"{scope}_{kind}_data"] = matrix.data.astype(np.float32)
        arrays[f"{scope}_{kind}_indices"] = matrix.indices.astype(np.int32)
        arrays[f"{scope}_{kind}_indptr"] = matrix.indptr.astype(np.int64)
    return arrays


def _group(histograms: list[Histogram], scope: str) -> NDArray[np.int64]:
    """Give every bin its group: equal shares of anomalous pixels, of normal ones, and of the logarithm of their ranks.

    The rank of a normal pixel is how many score at least as high.
    """
    totals = np.zeros((2, NUM_BINS))
    for pixels in histograms:
        totals[:, pixels.bins] += pixels.counts[:2]
    negatives, positives = totals
    at_least = np.append(negatives[::-1].cumsum()[::-1], 0)
    ranks = -np.diff(np.log1p(at_least))
    shares = [share / share.sum() for share in (negatives, positives, ranks) if share.any()]
    below = np.cumsum(np.mean(shares, axis=0)).clip(0, 1)
    last = NUM_GROUPS[scope] - 1
    return np.minimum(np.append(0, below[:-1]) * (last + 1), last).astype(np.int64)
