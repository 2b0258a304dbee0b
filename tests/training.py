# SPDX-License-Identifier: Apache-2.0
"""Trainings of a tiny model on random images, and what happened in them."""

import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from .tiny import tiny_engine, tiny_model


class Recorder(Callback):
    """Remember what was logged, the learning rate and the gradients' norm, per step."""

    def __init__(self):
        self.logged, self.lrs, self.norms = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.nn.utils.get_total_norm(grads).item())


def items(count, size=64, broken=()):
    """Random images as items of a dataset; the numbers in ``broken`` have a NaN pixel."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    for index in broken:
        images[index, 1, 3, 4] = torch.nan
    return [
        ImageItem(image=image, image_path=f"image_{index}.png", gt_label=torch.tensor(0))
        for index, image in enumerate(images)
    ]


def loader(count, batch_size, **arguments):
    return DataLoader(items(count, **arguments), batch_size, collate_fn=ImageBatch.collate)


def fit(folder, train, **arguments):
    """Fit a tiny model to the batches of a loader, without validation."""
    model = tiny_model(evaluator=False, **arguments.pop("model", {}))
    engine = tiny_engine(folder, limit_val_batches=0, **arguments)
    engine.fit(model, train_dataloaders=train)
    return model, engine


def assert_same_bits(found, expected):
    """Compare state dicts; where both have NaN they are the same."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
