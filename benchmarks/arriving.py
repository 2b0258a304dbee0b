# SPDX-License-Identifier: Apache-2.0
"""Products that arrive in groups: added without training, replayed, or trained from the start with all.

    python benchmarks/arriving.py --groups ../shared/data/bottle,../shared/data/screw ../shared/data/cookie

A model is trained on the first group. The others are added to it one after the other by ``add_products``; then that
model is tested on all. For replay, the first model is trained on with all products, old and new, for fewer epochs. The
last row is trained from the start with all. Printed are means over the products of each group, and the minutes that
each row took.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import QUIET, print_header, print_row, three_decimals

from anomalib_vqflow import FeatureCache, MultiCategory, VQFlow
from anomalib_vqflow.products import add_products
from anomalib_vqflow.sources import load_model, set_up

MEASURES = ("image_AUROC", "pixel_AP")


def main(arguments: list[str] | None = None) -> None:
    """Train, add, replay, test and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", required=True, metavar="FOLDER,...", help="folders of products")
    parser.add_argument("--base", type=Path, help="checkpoint of the first group's training; trained if not given")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--replay-epochs", type=int, default=5)
    parser.add_argument("--from-the-start", action="store_true", help="also train with all products from the start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    groups = [[Path(folder) for folder in group.split(",")] for group in options.groups]
    with tempfile.TemporaryDirectory() as temporary:
        runs = Runs(groups, Path(temporary), options)
        print_header("model", *(f"group {i + 1}: image AUROC, pixel AP" for i in range(len(groups))), "pooled", "min")
        if options.base is None:
            with runs.timed():
                runs.train(VQFlow(options.backbone, input_size=options.size, visualizer=False), groups[:1])
        base = options.base or runs.folder / "model.ckpt"
        runs.print_accuracy("trained on group 1", load_model(base), groups[:1])
        model = load_model(base)
        with runs.timed():
            for group in groups[1:]:
                datamodule = data([group])
                set_up(datamodule, model, subsets=["train"])
                add_products(model, datamodule)
        runs.print_accuracy("the others added without training", model, groups)
        for name, model, epochs in runs.trainings(base):
            with runs.timed():
                runs.train(model, groups, epochs)
            runs.print_accuracy(name, model, groups)


class Runs:
    """Trainings and tests of one comparison.

    Args:
        groups: Folders of the products of each group.
        folder: Where checkpoints go.
        options: Command line.
    """

    def __init__(self, groups: Sequence[Sequence[Path]], folder: Path, options: argparse.Namespace) -> None:
        self.groups, self.folder, self.options = groups, folder, options
        self.seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure what the next row took."""
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start

    def trainings(self, base: Path) -> Iterator[tuple[str, VQFlow, int]]:
        """Yield name, model and epochs of what is trained with all products."""
        yield "and replayed", load_model(base), self.options.replay_epochs
        if self.options.from_the_start:
            model = VQFlow(self.options.backbone, input_size=self.options.size, visualizer=False)
            yield "trained with all", model, self.options.epochs

    def train(self, model: VQFlow, groups: Sequence[Sequence[Path]], epochs: int | None = None) -> None:
        """Train a model on groups of products, and save it as ``model.ckpt``."""
        seed_everything(self.options.seed)
        engine = self._engine("training", max_epochs=epochs or self.options.epochs, callbacks=[FeatureCache()])
        engine.fit(model, datamodule=data(groups))
        engine.trainer.save_checkpoint(self.folder / "model.ckpt")

    def print_accuracy(self, name: str, model: VQFlow, groups: Sequence[Sequence[Path]]) -> None:
        """Test a model on groups of products, and print its row."""
        self._engine("test").test(model, datamodule=data(groups), verbose=False)
        results = model.evaluator.results
        cells = []
        for group in self.groups:
            names = [folder.name for folder in group if folder.name in results.index]
            means = results.loc[names, list(MEASURES)].mean() if names else [np.nan] * len(MEASURES)
            cells.append(", ".join(map(three_decimals, means)))
        pooled = three_decimals(results.loc["pooled", "image_AUROC"])
        print_row(name, *cells, pooled, f"{self.seconds / 60:.1f}")
        self.seconds = 0.0

    def _engine(self, name: str, **arguments: object) -> Engine:
        return Engine(default_root_dir=self.folder / name, accelerator="cpu", devices=1, **QUIET, **arguments)


def data(groups: Sequence[Sequence[Path]]) -> MultiCategory:
    """Read groups of products as one datamodule."""
    folders = [folder for group in groups for folder in group]
    parts = [MultiCategory(folder.parent, [folder.name], num_workers=0) for folder in folders]
    return MultiCategory(datamodules=parts, train_batch_size=8, eval_batch_size=8, num_workers=0)


if __name__ == "__main__":
    main()
