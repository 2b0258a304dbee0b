# SPDX-License-Identifier: Apache-2.0
"""Train for many steps on data that never stops changing, and tell whether numbers, codebooks and memory hold.

    OMP_NUM_THREADS=1 python benchmarks/endurance.py --steps 10000 --precision bf16-mixed

Images of a few products are drawn anew for every step; their brightness, contrast and texture drift, and from time to
time a batch is all black, all white or of one color. A row per tenth of the training tells the median loss per latent
dimension, which such a batch does not move, the least perplexity of a codebook, and the resident memory. The exit code
is 1, and a sentence says why, if anything is not finite, a codebook collapses to one code, the loss does not fall,
memory grows, or the trained model does not tell other images from those of the training.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from measuring import QUIET, auroc, print_header, print_row, resident_memory
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from anomalib_vqflow import VQFlow

SIZE, BATCH, PRODUCTS = 64, 8, 4
STEPS_PER_EPOCH = 100
DRIFT_STEPS = 500  # of a wave of brightness
FLAT_EVERY = 50  # batches, of which one is flat
ROWS = 10
GROWTH_MIB = 48.0  # between the second tenth, when all is allocated, and the last
LEAST_PERPLEXITY = 1.5  # of the codes of a codebook; 1 is one code for everything
LEAST_AUROC = 0.9  # of images with stripes twice as narrow
JUDGED = 64  # images of each kind


class ChangingImages(Dataset):
    """Images that are a function of their number, so that none comes twice and every run sees the same."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        """Count the images of all steps."""
        return BATCH * self.steps

    def __getitem__(self, index: int) -> ImageItem:
        """Draw an image."""
        return ImageItem(image=draw(index), image_path=f"{index}.png", gt_label=torch.tensor(0))


class Onward(Sampler[int]):
    """The next images in every epoch, of which Lightning tells the number."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the images of an epoch."""
        return BATCH * STEPS_PER_EPOCH

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the images."""
        yield from range(len(self) * self.epoch, len(self) * (self.epoch + 1))


def draw(index: int, frequency: float = 1.0) -> Tensor:
    """Draw an image of shape ``(3, SIZE, SIZE)`` in [0, 1]: stripes of its product, noise, and a drifting light.

    Args:
        index: Number of the image.
        frequency: Of its stripes, times that of its product.
    """
    generator = torch.Generator().manual_seed(index)
    step, product = index // BATCH, index % PRODUCTS
    if step % FLAT_EVERY == FLAT_EVERY - 1:
        color = (torch.zeros(3), torch.ones(3), torch.rand(3, generator=generator))[index % 3]
        return color[:, None, None].expand(3, SIZE, SIZE).contiguous()
    phase, slant = torch.rand(2, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE) / SIZE, torch.arange(SIZE) / SIZE, indexing="ij")
    stripes = torch.sin(2 * torch.pi * (frequency * (2 + 2 * product) * (x + 0.3 * slant * y) + phase))
    light = 0.5 + 0.25 * torch.sin(torch.tensor(2 * torch.pi * step / DRIFT_STEPS + product))
    colors = 0.3 + 0.7 * torch.rand(3, generator=torch.Generator().manual_seed(product))
    noise = 0.05 * torch.randn(3, SIZE, SIZE, generator=generator)
    return (light + 0.25 * stripes * colors[:, None, None] + noise).clamp(0, 1)


class Row(NamedTuple):
    """A tenth of a training: its last step, median loss, least perplexity of a codebook, and memory in MiB."""

    step: int
    loss: float
    perplexity: float
    memory: float


class Watch(Callback):
    """Note how a training goes."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // ROWS)
        self.rows: list[Row] = []
        self._losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object) -> None:
        """Take the loss of each step, and a row of each tenth."""
        del outputs
        self._losses.append(float(trainer.callback_metrics["train_loss_step"]))
        if trainer.global_step % self.every == 0:
            statistics = pl_module.model.codebook_statistics().items()
            perplexity = min(float(value) for name, value in statistics if "perplexity" in name)
            loss = torch.tensor(self._losses).median().item()  # NaN if one of them is
            row = Row(trainer.global_step, loss, perplexity, resident_memory())
            self.rows.append(row)
            self._losses = []
            print_row(f"{row.step:,}", f"{row.loss:.3f}", f"{row.perplexity:.1f}", f"{row.memory:.0f}")


def train(steps: int, precision: str, folder: str) -> tuple[VQFlow, list[Row]]:
    """Train a small model of the default kind, with the backbone that the package ships.

    Args:
        steps: How many steps.
        precision: Lightning's.
        folder: Where checkpoints go.

    Returns:
        The model, in eval mode, and what was noted.
    """
    seed_everything(0)
    model = VQFlow(
        backbone="vqflow_tiny",
        input_size=SIZE,
        concept_dim=16,
        num_concepts=8,
        num_patterns=32,
        flow_steps=(1, 2, 2),
        hidden_dim=32,
        evaluator=False,
        visualizer=False,
    )
    watch = Watch(steps)
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        precision=precision,
        callbacks=[watch],
        log_every_n_steps=1,
        **QUIET,
    )
    epochs = -(-steps // STEPS_PER_EPOCH)
    data = ChangingImages(epochs * STEPS_PER_EPOCH)
    batches = DataLoader(data, BATCH, sampler=Onward(), collate_fn=ImageBatch.collate)
    engine.fit(model, train_dataloaders=batches)
    return model.eval(), watch.rows


def judge(model: VQFlow, first: int) -> float:
    """Tell how well new images of the training's kind are told from others.

    Args:
        model: A trained model.
        first: Number of an image from which on the training has seen none.
    """
    numbers = range(first, first + JUDGED)
    scores = [model(torch.stack([draw(n, frequency) for n in numbers])).pred_score for frequency in (1.0, 2.0)]
    return auroc(*scores)


def complaints(rows: Sequence[Row], found_auroc: float, parameters_finite: bool) -> list[str]:
    """Say what did not hold.

    Args:
        rows: Of the training, at least three.
        found_auroc: What :func:`judge` tells.
        parameters_finite: Whether all weights and buffers of the model are finite.
    """
    settled, last = rows[1:], rows[-1]
    growth = last.memory - settled[0].memory
    said = {
        f"the loss did not fall: {rows[0].loss:.3f}, then {last.loss:.3f}": not last.loss < rows[0].loss,
        "a codebook collapsed": min(row.perplexity for row in settled) < LEAST_PERPLEXITY,
        f"memory grew by {growth:.0f} MiB": growth > GROWTH_MIB,
        "a weight is not finite": not parameters_finite,
        f"other images are not told from normal ones: AUROC {found_auroc:.3f}": not found_auroc >= LEAST_AUROC,
    }
    return [what for what, holds in said.items() if holds]


def main(arguments: list[str] | None = None) -> None:
    """Train, print a table, and judge.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With a sentence if something did not hold.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--precision", default="32", help="of Lightning, such as bf16-mixed (default: %(default)s)")
    options = parser.parse_args(arguments)
    print_header("step", "loss", "least perplexity", "MiB")
    with tempfile.TemporaryDirectory() as folder:
        model, rows = train(options.steps, options.precision, folder)
    found = judge(model, first=2 * BATCH * options.steps + BATCH * STEPS_PER_EPOCH)
    print(f"AUROC of {JUDGED} new images against {JUDGED} with narrower stripes: {found:.3f}")
    finite = all(bool(value.isfinite().all()) for value in model.model.state_dict().values())
    if said := complaints(rows, found, finite):
        sys.exit(f"{options.steps} steps in {options.precision}: {'; '.join(said)}.")


if __name__ == "__main__":
    main()
