# SPDX-License-Identifier: Apache-2.0
"""What a trained model makes of normal images that were taken otherwise: turned, out of focus, in other light.

    python benchmarks/drifted.py configs/shared_data.yaml model.ckpt

Disturbs the normal test images in each of these ways, and prints a row for each: the AUROC of telling them from the
undisturbed ones by their scores; the share above the threshold that lets 95 % of the undisturbed ones pass; the share
that keeps its concept; and how well disturbed images are told from defects of known products, as AUROC, by the score,
by the share of the map that is anomalous, and by how far the image's embedding is from its prototype. 0.5 is no better
than chance. Foreign products are the matter of ``foreign.py``.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.engine import Engine
from measuring import auroc, print_header, print_row, three_decimals
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    affine,
    gaussian_blur,
    gaussian_noise,
    horizontal_flip,
    rotate,
)

from anomalib_vqflow import MultiCategory, VQFlow

PASSING = 0.95
"""Share of the undisturbed normal images under the threshold of images, and of the values under that of maps."""

WARM = (1.1, 1.0, 0.85)
"""Gains of red, green and blue under a lamp that has aged."""

Disturbance = Callable[[Tensor], Tensor]
KINDS: dict[str, Disturbance] = {
    "upside down": lambda images: torch.rot90(images, 2, (2, 3)),
    "mirrored": horizontal_flip,
    "turned by 5°": lambda images: rotate(images, 5.0, InterpolationMode.BILINEAR, fill=_border(images)),
    "shifted by 1/16": lambda images: affine(
        images, 0.0, [images.shape[-1] // 16, 0], 1.0, [0.0, 0.0], fill=_border(images)
    ),
    "out of focus, σ = 1": lambda images: gaussian_blur(images, [9, 9], [1.0, 1.0]),
    "out of focus, σ = 3": lambda images: gaussian_blur(images, [25, 25], [3.0, 3.0]),
    "lamp 10 % darker": lambda images: adjust_brightness(images, 0.9),
    "lamp 30 % darker": lambda images: adjust_brightness(images, 0.7),
    "lamp 10 % brighter": lambda images: adjust_brightness(images, 1.1),
    "lamp of warmer light": lambda images: (images * torch.tensor(WARM)[:, None, None]).clamp(0, 1),
    "contrast 30 % lower": lambda images: adjust_contrast(images, 0.7),
    "noise of the camera, σ = 0.05": lambda images: gaussian_noise(images, sigma=0.05),
}


class Seen(NamedTuple):
    """What a model tells of images, shape ``(N,)`` each."""

    score: NDArray[np.floating]
    area: NDArray[np.floating]  # share of the map that is anomalous
    distance: NDArray[np.floating]  # squared, of the embedding to its prototype, relative to what is usual there
    concept: NDArray[np.integer]


def main(arguments: list[str] | None = None) -> None:
    """Score and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoint", type=Path)
    options = parser.parse_args(arguments)
    datamodule = Engine.from_config(options.config)[2]
    datamodule.setup()
    model = VQFlow.load_from_checkpoint(options.checkpoint, map_location="cpu")
    print_header("images", "AUROC", "above", "same concept", "defects by score", "by area", "by distance")
    for kind, cells in measure(model, datamodule, KINDS):
        print_row(kind, *map(three_decimals, cells))


def measure(model: VQFlow, data: MultiCategory, kinds: dict[str, Disturbance]) -> Iterator[tuple[str, list[float]]]:
    """Disturb the normal test images, and compare what the model tells of them.

    Args:
        model: A trained model.
        data: Its data, set up.
        kinds: Disturbances of batches of shape ``(B, 3, H, W)`` in [0, 1], by name.

    Yields:
        Name and numbers of each kind, as the columns of the table.
    """
    map_threshold = _map_threshold(model, data)
    normal = see(model, data, 0, map_threshold)
    usual = {k: normal.distance[normal.concept == k].mean() for k in np.unique(normal.concept)}
    normal, defective = (_relative(seen, usual) for seen in (normal, see(model, data, 1, map_threshold)))
    limit = np.quantile(normal.score, PASSING)
    yield (
        "with defects",
        [auroc(normal.score, defective.score), float((defective.score > limit).mean()), *[np.nan] * 4],
    )
    for kind, disturb in kinds.items():
        torch.manual_seed(0)
        seen = _relative(see(model, data, 0, map_threshold, disturb), usual)
        pairs = zip(defective[:3], seen[:3], strict=True)
        same = float((seen.concept == normal.concept).mean())
        told = [auroc(of_defects, of_these) for of_defects, of_these in pairs]
        yield kind, [auroc(normal.score, seen.score), float((seen.score > limit).mean()), same, *told]


@torch.no_grad()
def see(
    model: VQFlow, data: MultiCategory, label: int, map_threshold: float, disturb: Disturbance | None = None
) -> Seen:
    """Let a model see the test images of a label.

    Args:
        model: A trained model.
        data: Its data, set up.
        label: 0 for normal images, 1 for those with defects.
        map_threshold: What values of maps are anomalous from.
        disturb: What is done to the images before.

    Returns:
        What it tells of them, in the order of the data.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in Seen._fields}
    concept = model.model.concept
    for images in _images(data, label):
        batch = model.pre_processor(images if disturb is None else disturb(images))
        features = model.model.see(batch)
        prediction = model.model(batch, features)
        embedding = concept.embed(features.semantic, features.tokens)
        found["score"].append(prediction.pred_score)
        found["area"].append((prediction.anomaly_map > map_threshold).flatten(1).float().mean(dim=1))
        found["distance"].append((embedding - concept.codebook.codes[prediction.concept]).square().sum(dim=1))
        found["concept"].append(prediction.concept)
    return Seen(**{name: torch.cat(values).numpy() for name, values in found.items()})


def _map_threshold(model: VQFlow, data: MultiCategory) -> float:
    """Find what few values of the maps of normal images are above."""
    with torch.no_grad():
        maps = [model.model(model.pre_processor(images)).anomaly_map[..., ::8, ::8] for images in _images(data, 0)]
    return float(np.quantile(torch.cat(maps).numpy(), PASSING))


def _images(data: MultiCategory, label: int) -> Iterator[Tensor]:
    for batch in data.test_dataloader():
        chosen = batch.gt_label.long() == label
        if chosen.any():
            yield batch.image[chosen]


def _relative(seen: Seen, usual: dict[int, float]) -> Seen:
    """Tell distances in units of what is usual for the concept, or for all where no normal image has it."""
    of_all = float(np.mean(list(usual.values())))
    return seen._replace(distance=seen.distance / np.array([usual.get(k, of_all) for k in seen.concept]))


def _border(images: Tensor) -> list[float]:
    """Take the mean color at the border, which a turned image shows in its corners."""
    edges = (images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1])
    return torch.stack([edge.mean(dim=(0, 2)) for edge in edges]).mean(dim=0).tolist()


if __name__ == "__main__":
    main()
