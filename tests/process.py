# SPDX-License-Identifier: Apache-2.0
"""Trainings that one process makes, or several together: ``python -m tests.process FOLDER CASE...`` is one of them.

How many there are, and which one this is, says the environment, as ``torchrun`` and ``srun`` set it.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything
from torch.utils.data import DataLoader, DistributedSampler

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.cache import FeatureCache
from anomalib_vqflow.distributed import num_processes

from .data.folders import make_category, make_image
from .tiny import tiny_engine, tiny_model

BATCH_SIZE = 4  # of all processes together
CASES = {  # of at least twenty steps
    "plain": {"max_epochs": 2},
    "accumulated": {"max_epochs": 4, "accumulate_grad_batches": 2},
    "balanced": {"max_epochs": 2},  # with cached maps in memory
    "uneven": {"max_epochs": 2},  # with cached maps on disk; the last batch has one image for each process
}


class Ordered(MultiCategory):
    """Training images in the order of the data set: Lightning shuffles otherwise where there are several processes."""

    def train_dataloader(self):
        data = self.train_data
        sampler = DistributedSampler(data, shuffle=False) if num_processes() > 1 else None
        return DataLoader(data, self.train_batch_size, sampler=sampler, collate_fn=data.collate_fn)


class Recorder(Callback):
    """Remember what was logged in every step, and keep a checkpoint of the middle of the training."""

    def __init__(self, checkpoint):
        self.losses, self.checkpoint = [], checkpoint

    def setup(self, *_, **__):
        seed_everything(0)  # Lightning does it here where there are several processes

    def on_train_batch_end(self, trainer, *_):
        names = ("train_loss_step", "train_nll", "train_log_det", "train_commitment")
        self.losses.append([float(trainer.callback_metrics[name]) for name in names])

    def on_train_epoch_end(self, trainer, *_):
        if trainer.current_epoch + 1 == trainer.max_epochs // 2:
            trainer.save_checkpoint(self.checkpoint)


def rank():
    """Number of this process, also before processes know each other."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def make_data(folder):
    """An odd number of images to validate on, and, of the uneven data, one image beyond whole batches per process."""
    for name, train in (("even", (26, 14)), ("odd", (27, 15))):
        for category, count in zip(("bolt", "nut"), train, strict=True):
            path = make_category(folder / name, category, train=0, good=5, defect=4 + (category == "nut"))
            for index in range(count):  # no two alike: whitening needs more cells than channels
                value = 60 + 3 * index + 90 * (category == "nut")
                make_image(path / "train" / "good" / f"{index:03}.png", value)


def train(case, folder, data, devices, resume_from=None):
    """Train, test, and tell all that may differ."""
    seed_everything(0)
    kind = MultiCategory if case == "balanced" else Ordered
    datamodule = kind(
        data / ("odd" if case == "uneven" else "even"),
        train_batch_size=BATCH_SIZE // devices,
        eval_batch_size=BATCH_SIZE,
        num_workers=0,
        balanced_sampling=case == "balanced",
    )
    caches = {"balanced": [FeatureCache()], "uneven": [FeatureCache(folder / "cache")]}.get(case, [])
    recorder = Recorder(folder / f"{case}.ckpt")
    options = {"precision": "64-true", **CASES[case]}
    own = folder / f"process_{rank()}"  # in a common one, processes would race for anomalib's numbered folders
    engine = tiny_engine(own, devices=devices, callbacks=[*caches, recorder], **options)
    model = tiny_model(use_whitening=True, whitening_noise=0, tail_weight=0.3, detail_pooling="none", lr=1e-3)
    engine.fit(model, datamodule=datamodule, ckpt_path=resume_from)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    scores = state["post_processor.normal_scores"]  # in no order
    state["post_processor.normal_scores"] = scores[scores[:, 0].argsort()]
    indices = code_indices(model.eval(), datamodule.train_data)
    engine.test(model, datamodule=datamodule)
    return {
        "steps": engine.trainer.global_step,
        "losses": torch.tensor(recorder.losses, dtype=torch.float64),
        "state": state,
        "indices": indices,
        "products": model.product_counts,
        "metrics": torch.from_numpy(model.evaluator.results.to_numpy(dtype="float64")),
    }


@torch.no_grad()
def code_indices(model, data):
    """The codes that images and their cells choose, codebook by codebook."""
    indices = []
    books = [model.model.concept.codebook, *model.model.pattern_codebooks]
    hooks = [book.register_forward_hook(lambda *args: indices.append(args[2].indices)) for book in books]
    images = torch.stack([data[index].image for index in range(len(data))])
    model.model(model.prepare(images))
    for hook in hooks:
        hook.remove()
    return indices


def main():
    torch.set_num_threads(1)
    folder, *cases = sys.argv[1:]
    folder = Path(folder)
    for case in cases:
        name, _, checkpoint = case.partition("=")
        found = train(name, folder, folder.parent / "data", devices=2, resume_from=checkpoint or None)
        torch.save(found, folder / f"{name}{'_resumed' if checkpoint else ''}_{rank()}.pt")


if __name__ == "__main__":
    main()
