# SPDX-License-Identifier: Apache-2.0
"""One pass over training and test images, into tables of one row per image.

Only numbers are kept, about 200 bytes per image. The few images that are shown are read again later.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from anomalib_vqflow.data import MultiCategory
from anomalib_vqflow.lightning_model import VQFlow

from .observe import Observer
from .sources import read_batches

logger = logging.getLogger(__name__)


class Collected(NamedTuple):
    """What is known of the images.

    Attributes:
        train: Training images: ``path``, ``category`` (empty if unknown), ``concept``, and ``distance`` of the
            embedding to the prototype.
        test: Test images: the same, ``anomalous`` (0, 1, or NaN if unknown), ``score`` as the model gives it, ``plain``
            without calibration (NaN if the model has none), and ``alarm``, whether the model calls it anomalous.
        num_train: Number of training images, of which ``train`` may be a share.
        categories: Names of the categories; empty if unknown.
        threshold: Score above which the model calls an image anomalous; NaN if it has none.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    num_train: int
    categories: list[str]
    threshold: float


def collect(model: VQFlow, datamodule: AnomalibDataModule, max_train_images: int) -> Collected:
    """Run a model over training and test images.

    Args:
        model: A trained model, in eval mode.
        datamodule: Its data, set up.
        max_train_images: Of more training images, an evenly drawn share of this size is used.

    Returns:
        Tables of the images.
    """
    categories, known = [], {}
    if isinstance(datamodule, MultiCategory):
        categories, known = datamodule.categories, datamodule.category_by_path
    num_train = len(datamodule.train_data)
    if num_train > max_train_images:
        logger.warning("Of %d training images, an evenly drawn share of %d is used.", num_train, max_train_images)
    with torch.no_grad(), Observer(model.model) as observer:
        batches = read_batches(_train_loader(datamodule, max_train_images), "training images")
        train = [_train_rows(model, batch, observer) for batch in batches]
        batches = read_batches(datamodule.test_dataloader(), "test images")
        test = [_test_rows(model, batch, observer) for batch in batches]
    return Collected(
        _table(train, known), _table(test, known), num_train, categories, image_threshold(model.post_processor)
    )


def _table(rows: list[pd.DataFrame], known: Mapping[str, str]) -> pd.DataFrame:
    table = pd.concat(rows, ignore_index=True)
    return table.assign(category=[known.get(path, "") for path in table["path"]])


def evenly_drawn(number: int, largest: int) -> list[int]:
    """Draw at most ``largest`` of ``number`` images, at equal distances, so that each category keeps its share.

    Args:
        number: Number of images.
        largest: Largest number to draw.

    Returns:
        Their indices, ascending.

    Example:
        >>> evenly_drawn(10, 4)
        [0, 2, 5, 7]
    """
    drawn = min(number, largest)
    return [index * number // drawn for index in range(drawn)]


def image_threshold(post_processor: object) -> float:
    """Find the raw score above which anomalib's post-processor calls an image anomalous.

    Args:
        post_processor: The model's post-processor, if it has one.

    Returns:
        The threshold, with the sensitivity taken into account; NaN if there is no decision.
    """
    if not isinstance(post_processor, PostProcessor) or not post_processor.enable_thresholding:
        return float("nan")
    decision = 1.0 - post_processor.image_sensitivity  # on scores normalized so that the threshold is at 0.5
    low, high = post_processor.image_min.item(), post_processor.image_max.item()
    if not post_processor.enable_normalization or np.isnan(low) or np.isnan(high):
        return decision
    threshold = post_processor.image_threshold.item()
    middle = (low + high) / 2 if np.isnan(threshold) else threshold
    return middle + (decision - 0.5) * (high - low)


def _train_loader(datamodule: AnomalibDataModule, max_images: int) -> DataLoader:
    """Read training images in order, and as test images are read: without random augmentation."""
    data, test_parts = datamodule.train_data, _parts(datamodule.test_data)
    for name, part in _parts(data).items():
        part.augmentations = test_parts[name].augmentations
    return DataLoader(
        Subset(data, evenly_drawn(len(data), max_images)),
        batch_size=datamodule.eval_batch_size,
        num_workers=datamodule.num_workers,
        collate_fn=datamodule.external_collate_fn or data.collate_fn,
    )


def _parts(dataset: AnomalibDataset) -> dict[str, AnomalibDataset]:
    return getattr(dataset, "parts", {"": dataset})


def _train_rows(model: VQFlow, batch: ImageBatch, observer: Observer) -> pd.DataFrame:
    """Find the concepts of a batch, which takes no flow."""
    model.model.concept(model.model.features(model.prepare(cast("Tensor", batch.image))).semantic)
    return _rows(batch, observer)


def _test_rows(model: VQFlow, batch: ImageBatch, observer: Observer) -> pd.DataFrame:
    prediction = model.model(model.prepare(cast("Tensor", batch.image)))
    scores = prediction.pred_score
    labels = torch.full_like(scores, float("nan")) if batch.gt_label is None else batch.gt_label
    return _rows(
        batch,
        observer,
        anomalous=labels.float().cpu().numpy(),
        score=scores.float().cpu().numpy(),
        plain=observer.plain_scores(scores).float().cpu().numpy(),
        alarm=_alarms(model.post_processor, scores).cpu().numpy(),
    )


def _rows(batch: ImageBatch, observer: Observer, **columns: Any) -> pd.DataFrame:  # noqa: ANN401
    concepts, distances = observer.concepts()
    return pd.DataFrame({"path": batch.image_path, "concept": concepts, "distance": distances, **columns})


def _alarms(post_processor: object, scores: Tensor) -> Tensor:
    """Decide as the model does, to the last bit."""
    if isinstance(post_processor, PostProcessor):
        labels = post_processor(InferenceBatch(pred_score=scores)).pred_label
        if labels is not None:
            return labels.bool()
    return torch.zeros_like(scores, dtype=torch.bool)
