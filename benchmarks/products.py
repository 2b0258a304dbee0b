# SPDX-License-Identifier: Apache-2.0
"""What it takes to train one model on ever more products: accuracy, concepts, time and memory.

    OMP_NUM_THREADS=1 python benchmarks/products.py --products 1 10 50 200 --results results/products --plot plot.png

The products are those that the package draws, and variants of them: other colors, brightness and orientation, the
same in all images of a product. Every number of products has a model of its own, of the same size but for its concepts
(a quarter more than products, at least eight), trained for the same number of epochs, so that a product is seen as
often in all of them. Peak memory is that of the process so far, and the numbers ascend. In the end the models take
turns at single images, in eager mode. With ``--results`` trainings and rows are kept: what was stopped goes on.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Timer
from matplotlib import pyplot as plt
from measuring import QUIET, peak_memory, print_header, print_row, take_turns, three_decimals
from numpy.typing import NDArray
from seeds import concept_measures

from anomalib_vqflow import FeatureCache, MultiCategory, VQFlow
from anomalib_vqflow.data.synthetic import CATEGORIES, SetArguments
from anomalib_vqflow.data.synthetic.dataset import write_category
from anomalib_vqflow.whole_file import whole_file

TRAIN, GOOD, DEFECTIVE = 24, 6, 8
"""Images of each product: normal ones for training and for the test, and those with defects."""

QUICK_START = Path(__file__).parents[1] / "configs" / "quick_start.yaml"
"""Its model is the one that is trained, but for its concepts."""

SPARE = 1.25
"""Concepts for each product."""

COUNTS = ("products", "concepts", "in use")
COSTS = {"training, s per image and epoch": ".4f", "MB so far": ".0f"}
SHARES = ("purity", "NMI", "pattern usage", "image AUROC", "pooled", "pixel AUROC", "image AUROC of the first ten")
COLUMNS = {**dict.fromkeys(COUNTS, ".0f"), **dict.fromkeys(SHARES, ".3f"), **COSTS}
"""Columns of the table, and how their numbers are written."""

PLOTTED = ("image AUROC", "pooled", "image AUROC of the first ten", "purity", "NMI")

Row = dict[str, float]


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
    parser.add_argument("--results", type=Path, help="where trainings and rows are kept; as above")
    parser.add_argument("--plot", type=Path, help="image file: accuracy and time over the number of products")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "images"
        names = [write_product(folder, number, options.size) for number in range(max(options.products))]
        print_header(*COLUMNS)
        rows, models = [], {}
        for count in sorted(options.products):
            run = "-".join(map(str, (count, options.size, options.epochs, options.seed)))
            place = (options.results or Path(temporary) / "results") / run
            kept = place / "row.json"
            if not kept.exists():
                data = MultiCategory(folder, names[:count], train_batch_size=16, eval_batch_size=16, num_workers=0)
                seed_everything(options.seed)
                row = train(data, names[:10], options.epochs, options.size, place)
                with whole_file(kept) as file:
                    file.write(json.dumps(row).encode())
            rows.append(json.loads(kept.read_text(encoding="utf-8")))
            models[count] = VQFlow.load_from_checkpoint(last_checkpoint(place), map_location="cpu")
            print_row(*(three_decimals(v) if v != v else f"{v:{COLUMNS[name]}}" for name, v in rows[-1].items()))
    milliseconds = time_images(models, options.size)
    if options.plot:
        plot(rows, milliseconds, options.plot)


def time_images(models: Mapping[int, VQFlow], size: int) -> dict[int, float]:
    """Let models take turns at an image, and print the median time of each, in milliseconds.

    Args:
        models: By number of products.
        size: Side of the image in pixels.
    """
    image = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        models = {count: model.model.eval() for count, model in models.items()}
        times = take_turns({count: lambda m=model: m(image) for count, model in models.items()}, rounds=50, warm_up=5)
    milliseconds = {count: 1000 * seconds.wall for count, seconds in times.items()}
    print()
    print_header("products", "ms per image")
    for count, value in milliseconds.items():
        print_row(str(count), f"{value:.1f}")
    return milliseconds


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint of trainings, in whatever version of anomalib's folders; None if there is none."""
    return max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)


def train(data: MultiCategory, first: Sequence[str], epochs: int, size: int, folder: Path) -> Row:
    """Train a model, from where a training in the folder was ended, and test it.

    Args:
        data: The products.
        first: Names of the products that all models have.
        epochs: Epochs of the training.
        size: Side of the images in pixels.
        folder: Where checkpoints go.

    Returns:
        Its row of the table.
    """
    count = len(data.categories)
    arguments = yaml.safe_load(QUICK_START.read_text(encoding="utf-8"))["model"]["init_args"]
    model = VQFlow(**arguments, input_size=size, num_concepts=max(8, round(SPARE * count)))
    timer = Timer()  # which checkpoints remember
    callbacks = [timer, FeatureCache()]
    engine = Engine(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, callbacks=callbacks, **QUIET
    )
    engine.fit(model, datamodule=data, ckpt_path=last_checkpoint(folder))
    seconds = timer.time_elapsed("train") / epochs / len(data.train_data)
    engine.test(model, datamodule=data, verbose=False)
    results = model.evaluator.results
    in_use, purity, information = concept_measures(model, data).values()
    usage = np.mean([codebook.usage.item() for codebook in model.model.pattern_codebooks])
    of_first = results.loc[[name for name in first if name in results.index], "image_AUROC"].mean()
    accuracy = (results.loc["macro", "image_AUROC"], results.loc["pooled", "image_AUROC"])
    numbers = (purity, information, usage, *accuracy, results.loc["macro", "pixel_AUROC"], of_first)
    row = (count, model.model.concept.codebook.num_codes, in_use, *map(float, numbers), seconds, peak_memory())
    return dict(zip(COLUMNS, row, strict=True))


def plot(rows: Sequence[Row], milliseconds: Mapping[int, float], path: Path) -> None:
    """Draw accuracy, concepts and the time of an image over the number of products.

    Args:
        rows: Rows of the table.
        milliseconds: Time per image, by number of products.
        path: Image file.
    """
    figure, (accuracy, time) = plt.subplots(1, 2, figsize=(11, 3.5), width_ratios=(3, 2))
    counts = [row["products"] for row in rows]
    for name in PLOTTED:
        accuracy.plot(counts, [row[name] for row in rows], "o-", label=name)
    time.plot(*zip(*milliseconds.items(), strict=True), "o-")
    time.set(ylim=(0, 1.2 * max(milliseconds.values())), ylabel="ms per image")
    accuracy.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for panel in (accuracy, time):
        panel.set(xscale="log", xlabel="products", xticks=counts, xticklabels=counts)
        panel.minorticks_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
