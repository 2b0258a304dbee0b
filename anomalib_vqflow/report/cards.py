# SPDX-License-Identifier: Apache-2.0
"""Cards: a heading, a few words and a mosaic of images."""

from pathlib import Path
from typing import NamedTuple, cast

import pandas as pd
import torch
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.visualization.image import visualize_anomaly_map, visualize_mask
from anomalib.visualization.image.functional import create_image_grid, visualize_image
from PIL import Image, ImageOps
from torch import Tensor

from anomalib_vqflow.lightning_model import VQFlow
from anomalib_vqflow.naming import first_names

NUM_TYPICAL, NUM_WORST = 6, 8
TILES_PER_ROW = 3
SIDE, GAP = 192, 4  # of a tile in pixels


class Card(NamedTuple):
    """Images that belong together."""

    title: str
    text: str  # a few words; may be empty
    image: Image.Image  # mosaic of the images
    captions: list[str]  # one for each column of the mosaic, or none
    paths: list[str]  # files that are shown


def concept_cards(train: pd.DataFrame) -> list[Card]:
    """Describe each concept that training images fell on, by the images nearest to its prototype.

    Args:
        train: Training images; see :class:`.Collected`.

    Returns:
        A card for each concept, the most frequent one first.
    """
    cards = []
    for concept, images in sorted(train.groupby("concept"), key=lambda group: (-len(group[1]), group[0])):
        noun = "image" if len(images) == 1 else "images"
        title = f"Concept {concept}: {len(images)} {noun} ({100 * len(images) / len(train):.1f} %)"
        paths = images.sort_values(["distance", "path"])["path"].head(NUM_TYPICAL).tolist()
        cards.append(Card(title, _purity(images), mosaic([visualize_image(path) for path in paths]), [], paths))
    return cards


def worst_mistakes(test: pd.DataFrame, *, anomalous: bool, only_wrong: bool) -> pd.DataFrame:
    """Choose the eight normal images with the highest scores, or anomalous images with the lowest, the worst first.

    Args:
        test: Test images; see :class:`.Collected`.
        anomalous: Whether to choose among the anomalous images.
        only_wrong: Whether to choose only among those on the wrong side of the threshold.
    """
    wrong = test["alarm"] != anomalous
    chosen = test[(test["anomalous"] == anomalous) & (wrong | (not only_wrong))]
    return chosen.sort_values(["score", "path"], ascending=[anomalous, True]).head(NUM_WORST)


@torch.no_grad()
def mistake_cards(model: VQFlow, data: AnomalibDataset, chosen: pd.DataFrame) -> list[Card]:
    """Show each of the chosen test images with its anomaly map and, if anomalous, its true mask."""
    paths, cards = data.samples["image_path"].tolist(), []
    for number, row in enumerate(chosen.itertuples(), start=1):
        path = str(row.path)
        item = cast("ImageItem", data[paths.index(path)])
        image = visualize_image(path)
        prediction = model(cast("Tensor", item.image)[None].to(model.device).to(model.dtype))
        tiles = {"image": image, "anomaly map": visualize_anomaly_map(prediction.anomaly_map[0, 0].float().cpu())}
        if item.gt_mask is not None and row.anomalous == 1:
            tiles["true mask"] = visualize_mask(cast("Tensor", item.gt_mask).squeeze() > 0).convert("RGB")
        title = f"{number}. " + ", ".join(filter(None, [str(row.category), f"score {row.score:.3f}"]))
        text = f"Concept {row.concept}; {'/'.join(Path(path).parts[-4:])}"  # in MVTec layout: category and below
        same_shape = [tile.resize(image.size) for tile in tiles.values()]  # maps have that of the model's input
        cards.append(Card(title, text, mosaic(same_shape), list(tiles), [path]))
    return cards


def mosaic(images: list[Image.Image]) -> Image.Image:
    """Lay out RGB images, undistorted, in rows of three squares; as wide even if there are fewer."""
    squares = [ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.LANCZOS, "white") for image in images]
    return create_image_grid([ImageOps.expand(square, GAP, "white") for square in squares], TILES_PER_ROW)


def _purity(images: pd.DataFrame) -> str:
    """Name the categories of a concept, the most frequent first, and the share of the first; empty if unknown."""
    shares = images["category"].value_counts(normalize=True).sort_index().sort_values(ascending=False, kind="stable")
    first, *others = shares.index
    also = f", also {first_names(others, limit=2)}" if others else ""
    return f"Purity {shares.iloc[0]:.3f}: {first}{also}" if first else ""
