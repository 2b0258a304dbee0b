# SPDX-License-Identifier: Apache-2.0
"""Run a model over training and test images once, into tables of one row per image.

Only numbers are kept, about 200 bytes per image. The few images that are shown are read again later.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.post_processing import PostProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomalib_vqflow.anomaly_map import AnomalyMapGenerator, to_unit
from anomalib_vqflow.data import MultiCategory
from anomalib_vqflow.lightning_model import VQFlow
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.sources import evenly_drawn, loader_of, read_batches

logger = logging.getLogger(__name__)


class Collected(NamedTuple):
    """What is known of the images, one row for each.

    Both tables have ``path``, ``category`` (empty if unknown) and ``concept``. Training images have ``distance``, that
    of the embedding to the prototype; test images have ``anomalous`` (0, 1, or NaN if unknown), ``score`` as the model
    gives it, ``plain`` without calibration (NaN if it has none), and ``alarm``, whether the model calls it anomalous.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    num_train: int  # number of training images, of which the table may be a share
    num_concepts: int  # that the model has
    categories: list[str]  # empty if unknown
    threshold: float  # score above which the model calls an image anomalous; NaN if it has none
    held_out: NDArray[np.float32]  # scores of normal validation images that are no test images; empty if unknown


@torch.no_grad()
def collect(model: VQFlow, datamodule: AnomalibDataModule, max_train_images: int) -> Collected:
    """Run a model over training and test images.

    Args:
        model: A trained model, in eval mode.
        datamodule: Its data, set up.
        max_train_images: Of more training images, an evenly drawn share of this size is used.
    """
    num_train = len(datamodule.train_data)
    if num_train > max_train_images:
        logger.warning("Of %d training images, an evenly drawn share of %d is used.", num_train, max_train_images)
    batches = read_batches(_train_loader(datamodule, max_train_images), "training images")
    train = pd.concat([_train_rows(model, batch) for batch in batches], ignore_index=True)
    with uncalibrated_scores(model.model.anomaly_map_generator) as plain:
        batches = read_batches(datamodule.test_dataloader(), "test images")
        test = pd.concat([_test_rows(model, batch) for batch in batches], ignore_index=True)
    highest = torch.cat(plain).view(len(test), -1).amax(dim=1).float().cpu().numpy() if plain else None  # of the tiles
    test["plain"] = np.float32("nan") if highest is None else highest
    categories, known = [], {}
    if isinstance(datamodule, MultiCategory):
        categories, known = datamodule.categories, datamodule.category_by_path
    for images in (train, test):
        images["category"] = [known.get(path, "") for path in images["path"]]
    num_concepts = model.model.concept.codebook.num_codes
    threshold, held_out = image_threshold(model.post_processor), held_out_scores(model.post_processor, datamodule)
    return Collected(train, test, num_train, num_concepts, categories, threshold, held_out)


@contextmanager
def uncalibrated_scores(generator: AnomalyMapGenerator) -> Iterator[list[Tensor]]:
    """Score what a model predicts without calibration, too: a list of scores ``(B,)`` in [0, 1], empty if it has none.

    A forward hook sees the latents and log-determinants of every batch.
    """
    plain: list[Tensor] = []

    def score(_module: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
        latents, log_dets, _concept, size = inputs
        plain.append(to_unit(generator.uncalibrated_scores(latents, log_dets, size)).nan_to_num(nan=1.0))

    has_calibration = generator.needs_log_det and generator.calibration.fitted
    with generator.register_forward_hook(score) if has_calibration else nullcontext():
        yield plain


def image_threshold(post_processor: object) -> float:
    """Find the raw score above which anomalib's post-processor calls an image anomalous; NaN if it does not decide."""
    if not isinstance(post_processor, PostProcessor) or not post_processor.enable_thresholding:
        return float("nan")
    threshold = post_processor.image_threshold.item()
    if isinstance(post_processor, SeparatingPostProcessor) and np.isnan(threshold):
        return float("nan")
    decision = 1.0 - post_processor.image_sensitivity  # on scores normalized so that the threshold is at 0.5
    low, high = post_processor.image_min.item(), post_processor.image_max.item()
    if not post_processor.enable_normalization or np.isnan(low) or np.isnan(high):
        return decision
    middle = (low + high) / 2 if np.isnan(threshold) else threshold
    return middle + (decision - 0.5) * (high - low)


def held_out_scores(post_processor: object, datamodule: AnomalibDataModule) -> NDArray[np.float32]:
    """Get the scores of the normal validation images, which tell false alarms unless they are test images, too."""
    validated = getattr(datamodule, "val_data", None)
    if validated is None or not isinstance(post_processor, SeparatingPostProcessor):
        return np.zeros(0, np.float32)
    if not set(validated.samples["image_path"]).isdisjoint(datamodule.test_data.samples["image_path"]):
        return np.zeros(0, np.float32)
    return post_processor.normal_scores[:, 0].float().cpu().numpy()


def _train_loader(datamodule: AnomalibDataModule, max_images: int) -> DataLoader:
    """Read training images evenly drawn, in order, and as test images are read: without random augmentation."""
    data, test_data = datamodule.train_data, datamodule.test_data
    test_datasets = getattr(test_data, "by_category", {"": test_data})
    for name, dataset in getattr(data, "by_category", {"": data}).items():
        dataset.augmentations = test_datasets[name].augmentations
    return loader_of(evenly_drawn(data, max_images), datamodule)


def _train_rows(model: VQFlow, batch: ImageBatch) -> pd.DataFrame:
    """Find the concepts of a batch, which takes no flow; with tiles, an image has a row for each of them."""
    quantizer, features = model.model.concept, model.model.see(model.prepare(cast("Tensor", batch.image)))
    embedding = quantizer.embed(features.semantic, features.tokens)
    concept = quantizer.codebook.nearest(embedding)
    return _rows(batch, concept=concept, distance=(embedding - quantizer.codebook.codes[concept]).double().norm(dim=1))


def _test_rows(model: VQFlow, batch: ImageBatch) -> pd.DataFrame:
    prediction = model.model(model.prepare(cast("Tensor", batch.image)))
    scores = prediction.pred_score
    alarm = None  # decided as the model does, to the last bit
    if isinstance(model.post_processor, PostProcessor):
        alarm = model.post_processor(prediction._replace(anomaly_map=None)).pred_label
    return _rows(
        batch,
        concept=prediction.concept,
        anomalous=torch.full_like(scores, float("nan")) if batch.gt_label is None else batch.gt_label.float(),
        score=scores.float(),
        alarm=torch.zeros_like(scores, dtype=torch.bool) if alarm is None else alarm.bool(),
    )


def _rows(batch: ImageBatch, **columns: Tensor) -> pd.DataFrame:
    found = {name: values.cpu().numpy() for name, values in columns.items()}
    paths = np.asarray(batch.image_path, dtype=object)
    return pd.DataFrame({"path": paths.repeat(len(next(iter(found.values()))) // len(paths)), **found})
