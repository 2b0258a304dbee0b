# SPDX-License-Identifier: Apache-2.0
"""Time training epochs without a feature cache, with one in memory and with one on disk.

    OMP_NUM_THREADS=1 python benchmarks/feature_cache.py ../shared/data --images 24

The model is that of the configuration; the images are the first ones of each category. The three ways take turns, and
an epoch is timed from the start of its training to its end, without validation, in the configuration's number of worker
processes. Processor time is told, too, because it does not depend on what else the machine does; it is only that of the
main process. Also printed: how long it takes until training starts, and the size of the files.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from measuring import QUIET, print_header, print_row

from anomalib_vqflow import FeatureCache, MultiCategory


class EpochTimes(Callback):
    """Seconds until training starts, and seconds of every epoch."""

    def __init__(self) -> None:
        self.setup_start = time.perf_counter()
        self.start_up = 0.0
        self.epochs: list[float] = []
        self.processor: list[float] = []

    def on_train_start(self, *_: object) -> None:
        """Note how long everything before took."""
        self.start_up = time.perf_counter() - self.setup_start

    def on_train_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self.start = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop the clock."""
        self.epochs.append(time.perf_counter() - self.start[0])
        self.processor.append(time.process_time() - self.start[1])


def main(arguments: list[str] | None = None) -> None:
    """Train in turns and print a table.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of categories in MVTec layout")
    parser.add_argument("--config", type=Path, default=Path("configs/shared_data.yaml"))
    parser.add_argument("--images", type=int, default=24, help="training images of each category")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each way")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        products, caches = Path(folder) / "products", Path(folder) / "cache"
        link_first_images(options.root.absolute(), products, options.images)
        runs: dict[str, list[EpochTimes]] = {"without": [], "in memory": [], "on disk": [], "on disk, again": []}
        for _ in range(options.rounds):
            FeatureCache(caches).clear()
            for way, times in runs.items():
                cache = None if way == "without" else FeatureCache(None if way == "in memory" else caches)
                times.append(train(options, products, cache))
        num_images = sum(1 for _ in products.glob("*/train/good/*"))
        size = sum(path.stat().st_size for path in caches.rglob("*") if path.is_file())

    print(f"\n{num_images} images, {torch.get_num_threads()} thread(s); files: {size / 2**20:.1f} MiB\n")
    print_header("feature cache", "start, s", "epoch, s", "images per s", "processor, s", "images per processor s")
    for way, times in runs.items():
        seconds = statistics.median(second for run in times for second in run.epochs)
        start_up = statistics.median(run.start_up for run in times)
        processor = statistics.median(second for run in times for second in run.processor)
        rates = f"{num_images / seconds:.1f}", f"{num_images / processor:.1f}"
        print_row(way, f"{start_up:.1f}", f"{seconds:.2f}", rates[0], f"{processor:.2f}", rates[1])


def link_first_images(root: Path, folder: Path, num_images: int) -> None:
    """Make a folder of categories from the first training images of each, and one test image.

    Args:
        root: Folder of categories.
        folder: Where to link them.
        num_images: Training images of each category.
    """
    for category in sorted(path.parent.parent for path in root.glob("*/train/good")):
        for part, count in (("train/good", num_images), ("test/good", 1)):
            target = folder / category.name / part
            target.mkdir(parents=True)
            for image in sorted((category / part).iterdir())[:count]:
                (target / image.name).symlink_to(image)


def train(options: argparse.Namespace, root: Path, cache: FeatureCache | None) -> EpochTimes:
    """Train the configuration's model on a folder.

    Args:
        options: Command line.
        root: Folder of categories.
        cache: The cache, or None.

    Returns:
        The times.
    """
    _, model, datamodule = Engine.from_config(options.config, **{"data.root": str(root)})
    data = MultiCategory(root, train_batch_size=datamodule.train_batch_size, num_workers=datamodule.num_workers)
    times = EpochTimes()
    engine = Engine(
        callbacks=[times] if cache is None else [times, cache],
        max_epochs=options.epochs,
        limit_val_batches=0,
        accelerator="cpu",
        default_root_dir=root.parent / "results",
        **QUIET,
    )
    times.setup_start = time.perf_counter()
    engine.fit(model, datamodule=data)
    return times


if __name__ == "__main__":
    main()
