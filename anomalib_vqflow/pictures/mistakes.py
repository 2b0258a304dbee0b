# SPDX-License-Identifier: Apache-2.0
"""The worst false alarms and misses, each with image, anomaly map and true mask."""

import os
from typing import cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataset, ImageItem, InferenceBatch
from anomalib.post_processing import PostProcessor
from PIL import Image
from torch import Tensor

from anomalib_vqflow.lightning_model import VQFlow

from .cards import Card, Pixels, Thumbnail, read_thumbnail

NUM_WORST = 8
COLORS = "viridis"  # ordered in brightness for all readers, and in print


def worst_false_alarms(test: pd.DataFrame, only_wrong: bool = True) -> pd.DataFrame:
    """Choose the normal images with the highest scores.

    Args:
        test: Test images; see :class:`.Collected`.
        only_wrong: Whether to choose only among those that the model calls anomalous.

    Returns:
        At most eight rows, the worst first.
    """
    return _worst(test, anomalous=False, only_wrong=only_wrong)


def worst_misses(test: pd.DataFrame, only_wrong: bool = True) -> pd.DataFrame:
    """Choose the anomalous images with the lowest scores; else as :func:`worst_false_alarms`."""
    return _worst(test, anomalous=True, only_wrong=only_wrong)


def _worst(test: pd.DataFrame, *, anomalous: bool, only_wrong: bool) -> pd.DataFrame:
    wrong = test["alarm"] != anomalous
    chosen = test[(test["anomalous"] == anomalous) & (wrong | (not only_wrong))]
    return chosen.sort_values(["score", "path"], ascending=[anomalous, True]).head(NUM_WORST)


def count_mistakes(test: pd.DataFrame) -> tuple[int, int]:
    """Count false alarms and misses.

    Args:
        test: Test images; see :class:`.Collected`.

    Returns:
        Both numbers.
    """
    false_alarms = (test["anomalous"] == 0) & test["alarm"]
    misses = (test["anomalous"] == 1) & ~test["alarm"]
    return int(false_alarms.sum()), int(misses.sum())


@torch.no_grad()
def mistake_cards(model: VQFlow, data: AnomalibDataset, chosen: pd.DataFrame, root: str) -> list[Card]:
    """Show images with their anomaly maps and true masks.

    Args:
        model: The model, in eval mode.
        data: The test images.
        chosen: Rows of the table of test images.
        root: Folder that paths are written relative to; empty for whole paths.

    Returns:
        A card for each row.
    """
    rows = {path: index for index, path in reversed(list(enumerate(data.samples["image_path"])))}
    cards = []
    for number, image in enumerate(chosen.itertuples(), start=1):
        item = cast("ImageItem", data[rows[str(image.path)]])
        pictures = [read_thumbnail(str(image.path), "image")]
        height, width = pictures[0].pixels.shape[:2]
        size = (width, height)
        prediction = model.model(model.prepare(cast("Tensor", item.image)[None]))
        pictures.append(
            Thumbnail(_colored(_relative(model.post_processor, prediction.anomaly_map), size), "anomaly map", "")
        )
        if item.gt_mask is not None and image.anomalous == 1:
            pictures.append(Thumbnail(_gray(cast("Tensor", item.gt_mask), size), "true mask", ""))
        title = f"{number}. " + ", ".join(filter(None, [str(image.category), f"score {image.score:.3f}"]))
        path = os.path.relpath(str(image.path), root) if root else str(image.path)
        cards.append(Card(title, f"Concept {image.concept}; {path}", pictures))
    return cards


def _relative(post_processor: object, anomaly_map: Tensor) -> Tensor:
    """Scale a map as the model does, so that 0.5 is its threshold at the default sensitivity; shape ``(H, W)``."""
    if isinstance(post_processor, PostProcessor):
        anomaly_map = cast("Tensor", post_processor(InferenceBatch(anomaly_map=anomaly_map)).anomaly_map)
    return anomaly_map[0, 0].float().cpu()


def _colored(values: Tensor, size: tuple[int, int]) -> Pixels:
    colors = mpl.colormaps[COLORS](values.clamp(0, 1).numpy(), bytes=True)[..., :3]
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).resize(size, Image.Resampling.BILINEAR))


def _gray(mask: Tensor, size: tuple[int, int]) -> Pixels:
    pixels = (255 * (mask.squeeze() > 0)).byte().numpy()
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX).convert("RGB"))
