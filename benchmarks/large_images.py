# SPDX-License-Identifier: Apache-2.0
"""Small defects on large images: seen by a model that gets the images resized, and by one that gets them in tiles.

    OMP_NUM_THREADS=1 python benchmarks/large_images.py

Products of the package are drawn as squares, of which a wide image is cut. Every normal test image is there again with
a speck of each diameter, a grain darker or brighter than what it lies on, as blurred as the picture. Its mask is where
it is at least half as plain as in its middle. Two models with the default arguments and ``vqflow_tiny`` train equally
many steps on the same normal images, one at the size of a tile and one in tiles at full size. No test image is used for
anything but the test. Maps are compared with masks at full size. Means over the categories; processor time of the
training with its cache, and of a test image in torch with its resizing, the median.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import QUIET, print_header, print_row
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn import functional as F

from anomalib_vqflow import FeatureCache, MultiCategory, VQFlow
from anomalib_vqflow.data.synthetic import render
from anomalib_vqflow.data.synthetic.primitives import blob, blur, coverage
from anomalib_vqflow.evaluation.binning import bin_scores
from anomalib_vqflow.evaluation.scores import ImageScores, PixelScores

LENS = 0.0021  # middle of the blur of the generated pictures, in units of the image side

Image = NDArray[np.uint8]


class Measures(NamedTuple):
    """How well specks of one diameter are found in one category."""

    image_auroc: float
    pixel_auroc: float
    pixel_ap: float


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, test and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), default=(1500, 2000))
    parser.add_argument("--tile-size", type=int, default=256, help="side of a tile, and of the resized image")
    parser.add_argument("--diameters", type=int, nargs="+", default=(12, 24), help="of the specks, in pixels")
    parser.add_argument("--categories", nargs="+", default=("fabric", "plate", "tile"))
    parser.add_argument("--train", type=int, default=8, help="normal training images of each category")
    parser.add_argument("--test", type=int, default=6, help="normal test images, and images with each kind of speck")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    side = options.tile_size
    ways = {
        f"resized to {side}×{side}": {"input_size": side},
        f"in tiles of {side}×{side}": {"input_size": options.image_size, "tile_size": side},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "products"
        for category in options.categories:
            draw_category(root / category, options)
        for number, (way, sizes) in enumerate(ways.items()):
            seed_everything(options.seed)
            model = VQFlow("vqflow_tiny", **sizes, evaluator=False, post_processor=False, visualizer=False)
            started = time.process_time()
            train(model, root, Path(folder) / "run", options.epochs)
            seconds = time.process_time() - started
            found, times = test(model, root)
            if not number:
                height, width = options.image_size
                print_header(f"{width}×{height} pixels", "specks, px", *Measures._fields, "s per image", "training, s")
            for diameter, measures in found.items():
                values = [f"{value:.3f}" for value in measures]
                print_row(way, str(diameter), *values, f"{statistics.median(times):.2f}", f"{seconds:.0f}")


def draw_category(folder: Path, options: argparse.Namespace) -> None:
    """Write the images of a category in MVTec layout.

    Args:
        folder: New folder of the category, which has its name.
        options: Command line.
    """
    height, width = options.image_size
    side = max(height, width)

    def draw(split: str, index: int) -> Image:
        image = render(folder.name, split=split, index=index, size=side, seed=options.seed).image
        top, left = (side - height) // 2, (side - width) // 2
        return np.ascontiguousarray(image[top : top + height, left : left + width])

    for index in range(options.train):
        write(folder / "train" / "good" / f"{index:03}.png", draw("train", index))
    for index in range(options.test):
        good = draw("test", index)
        write(folder / "test" / "good" / f"{index:03}.png", good)
        for diameter in options.diameters:
            image, mask = with_speck(good, diameter, np.random.default_rng([options.seed, index, diameter]))
            write(folder / "test" / str(diameter) / f"{index:03}.png", image)
            write(folder / "ground_truth" / str(diameter) / f"{index:03}_mask.png", mask)


def with_speck(image: Image, diameter: int, rng: Generator) -> tuple[Image, Image]:
    """Lay a speck on an image, anywhere but at its border.

    Args:
        image: RGB image.
        diameter: Mean diameter of the speck in pixels.
        rng: Randomness of the speck.

    Returns:
        The image with it, and where it is seen.
    """
    reach = 2 * diameter
    top, left = (int(rng.integers(reach, length - 3 * reach)) for length in image.shape[:2])
    part = (slice(top, top + 2 * reach), slice(left, left + 2 * reach))
    axis = np.arange(2 * reach, dtype=np.float32) - np.float32(reach - 0.5)
    x, y = np.meshgrid(axis, axis)
    grain = coverage(blob(rng, x, y, diameter / 2, 0.2, 5), size=1)
    alpha = blur(grain, LENS * max(image.shape) / len(grain))[..., None]
    below = image[part].astype(np.float32)
    color = 25.0 if below.mean() > 110 else 220.0
    image, mask = image.copy(), np.zeros(image.shape[:2], dtype=np.uint8)
    image[part] = np.round(below + alpha * (np.float32(color) - below))
    mask[part] = 255 * (alpha[..., 0] > alpha.max() / 2)
    return image, mask


def write(path: Path, image: Image) -> None:
    """Write an RGB or gray image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def data(root: Path, batch_size: int) -> MultiCategory:
    """Make the datamodule; validation sets thresholds, which nobody asks for here."""
    return MultiCategory(root, train_batch_size=batch_size, eval_batch_size=1, num_workers=0, val_split_mode="none")


def train(model: VQFlow, root: Path, folder: Path, epochs: int) -> None:
    """Train a model on cached maps.

    Args:
        model: The model.
        root: Folder of categories.
        folder: Folder of the run.
        epochs: Passes over the images.
    """
    engine = Engine(
        callbacks=[FeatureCache()],
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        **QUIET,
    )
    engine.fit(model, datamodule=data(root, 8))


@torch.no_grad()
def test(model: VQFlow, root: Path) -> tuple[dict[int, Measures], Sequence[float]]:
    """Measure how well specks are found.

    Args:
        model: A trained model.
        root: Folder of categories.

    Returns:
        Means over the categories by the diameter of the specks, and the seconds that each image took.
    """
    datamodule = data(root, 8)
    datamodule.setup()
    model.eval()
    times, predicted = [], defaultdict(list)
    for batch in datamodule.test_dataloader():
        started = time.process_time()
        prediction = model(batch.image)
        times.append(time.process_time() - started)
        maps = F.interpolate(prediction.anomaly_map, batch.image.shape[-2:], mode="bilinear")
        category, _, kind, _ = Path(batch.image_path[0]).relative_to(root.absolute()).parts
        predicted[category, kind].append((prediction.pred_score, bin_scores(maps[:, 0]), batch.gt_mask.bool()))
    found = defaultdict(list)
    for category, kind in predicted:
        if kind != "good":
            found[int(kind)].append(measure(predicted[category, "good"], predicted[category, kind]))
    return {kind: Measures(*np.mean(found[kind], axis=0)) for kind in sorted(found)}, times


def measure(good: Sequence[tuple], bad: Sequence[tuple]) -> Measures:
    """Compare images with specks to those without.

    Args:
        good: Score, binned map and mask of each normal image.
        bad: The same of images with specks.
    """
    images, pixels = ImageScores(), PixelScores(aupimo=False)
    for is_bad, group in enumerate((good, bad)):
        for score, bins, mask in group:
            images.update(score, torch.full_like(score, is_bad))
            pixels.update(bins, mask.view(bins.shape))
    of_pixels = pixels.compute()
    return Measures(images.compute()["AUROC"], of_pixels["AUROC"], of_pixels["AP"])


if __name__ == "__main__":
    main()
