# SPDX-License-Identifier: Apache-2.0
"""What it takes to train one model on ever more products: accuracy, concepts, time and memory.

    OMP_NUM_THREADS=1 python benchmarks/products.py --products 1 10 50 200

The products are those that the package draws, and variants of them: other colors, brightness and orientation, the
same in all images of a product. Every number of products has a model of its own, of the same size but for its concepts
(a quarter more than products, at least eight), trained for the same number of epochs, so that a product is seen as
often in all of them. Peak memory is that of the process so far, and the numbers ascend. In the end the models take
turns at single images, in eager mode.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import QUIET, peak_memory, print_header, print_row, take_turns, three_decimals
from numpy.typing import NDArray
from seeds import concept_measures

from anomalib_vqflow import FeatureCache, MultiCategory, VQFlow
from anomalib_vqflow.data.synthetic import CATEGORIES, SetArguments
from anomalib_vqflow.data.synthetic.dataset import write_category

TRAIN, GOOD, DEFECTIVE = 24, 6, 8
"""Images of each product: normal ones for training and for the test, and those with defects."""

SPARE = 1.25
"""Concepts for each product."""

COLUMNS = (
    *("products", "concepts", "in use", "purity", "NMI", "pattern usage", "image AUROC", "pooled", "pixel AUROC"),
    *("image AUROC of the first ten", "training, s per image and epoch", "MB so far"),
)


class Trained(NamedTuple):
    """A model, and its row of the table."""

    model: VQFlow
    cells: list[str]


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, test and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where images are kept; a temporary one if not given")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "images"
        names = [write_product(folder, number, options.size) for number in range(max(options.products))]
        print_header(*COLUMNS)
        trained = {}
        for count in sorted(options.products):
            data = MultiCategory(folder, names[:count], train_batch_size=16, eval_batch_size=16, num_workers=0)
            seed_everything(options.seed)
            trained[count] = train(data, names[:10], options.epochs, options.size, Path(temporary) / str(count))
            print_row(*trained[count].cells)
    image = torch.rand(1, 3, options.size, options.size)
    with torch.inference_mode():
        models = {count: model.model.eval() for count, (model, _) in trained.items()}
        times = take_turns({count: lambda m=model: m(image) for count, model in models.items()}, rounds=50, warm_up=5)
    print()
    print_header("products", "ms per image")
    for count, seconds in times.items():
        print_row(str(count), f"{1000 * seconds.wall:.1f}")


def train(data: MultiCategory, first: Sequence[str], epochs: int, size: int, folder: Path) -> Trained:
    """Train a model and test it.

    Args:
        data: The products.
        first: Names of the products that all models have.
        epochs: Epochs of the training.
        size: Side of the images in pixels.
        folder: Where checkpoints go.

    Returns:
        The model and its row.
    """
    count = len(data.categories)
    model = VQFlow(
        backbone="vqflow_tiny",  # the following as in configs/quick_start.yaml
        detail_pooling="stride_2",
        semantic_level=False,
        second_kernel_size=3,
        map_levels=[0, 1, 2],
        map_log_det_weight=0.25,
        input_size=size,
        num_concepts=max(8, round(SPARE * count)),
        visualizer=False,
    )
    engine = Engine(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[FeatureCache()], **QUIET
    )
    start = time.perf_counter()
    engine.fit(model, datamodule=data)
    seconds = (time.perf_counter() - start) / epochs / len(data.train_data)
    engine.test(model, datamodule=data, verbose=False)
    results = model.evaluator.results
    in_use, purity, information = concept_measures(model, data).values()
    usage = np.mean([codebook.usage.item() for codebook in model.model.pattern_codebooks])
    of_first = results.loc[[name for name in first if name in results.index], "image_AUROC"].mean()
    accuracy = (results.loc["macro", "image_AUROC"], results.loc["pooled", "image_AUROC"])
    numbers = (purity, information, usage, *accuracy, results.loc["macro", "pixel_AUROC"], of_first)
    cells = [str(count), str(model.model.concept.codebook.num_codes), f"{in_use:.0f}"]
    cells += [*map(three_decimals, numbers), f"{seconds:.4f}", f"{peak_memory():.0f}"]
    return Trained(model, cells)


def write_product(folder: Path, number: int, size: int) -> str:
    """Draw the images of a product in MVTec AD's layout, unless they are there.

    Args:
        folder: Folder of all products.
        number: Number of the product; the first ten are those of the package.
        size: Side of the images in pixels.

    Returns:
        Its name.
    """
    variant, kind = divmod(number, len(CATEGORIES))
    category = CATEGORIES[kind]
    name = f"{category}_{variant:02d}"
    if (folder / name).exists():
        return name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as unfinished:
        drawn = Path(unfinished) / name
        write_category(drawn, category, SetArguments(size, TRAIN, GOOD, DEFECTIVE, seed=variant))
        for path in drawn.rglob("*.png"):
            cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), variant))
        drawn.rename(folder / name)
    return name


def change(pixels: NDArray[np.uint8], variant: int) -> NDArray[np.uint8]:
    """Make another product of an image: other colors, brightness and orientation; of a mask, the same orientation.

    Args:
        pixels: Image of shape ``(S, S, 3)`` in OpenCV's order BGR, or mask of shape ``(S, S)``.
        variant: What is changed depends on this number alone; nothing for 0.

    Returns:
        It, changed.
    """
    if not variant:
        return pixels
    rng = np.random.default_rng(variant)
    order, turns, mirrored = rng.permutation(3), int(rng.integers(4)), bool(rng.integers(2))
    if pixels.ndim == 3:
        tint, gamma = rng.uniform(0.5, 1.0, 3), rng.uniform(0.6, 1.6)
        colors = 255 * (pixels[..., ::-1][..., order] / 255) ** gamma * tint  # RGB
        pixels = colors.round().astype(np.uint8)[..., ::-1]
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


if __name__ == "__main__":
    main()
