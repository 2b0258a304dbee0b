# SPDX-License-Identifier: Apache-2.0
"""Runs in processes of their own that a signal ends at a chosen moment, or whose disk is full."""

import io
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.deploy import ExportType
from anomalib.models.components.base.export_mixin.utils import create_export_root
from lightning.pytorch import Callback, Trainer, seed_everything
from torchvision.transforms.v2 import ColorJitter, Compose, RandomHorizontalFlip

from anomalib_vqflow import FeatureCache, VQFlow
from anomalib_vqflow.checkpoint_files import CheckpointFiles
from anomalib_vqflow.export.files import whole_files
from anomalib_vqflow.prediction import __main__ as prediction

from .forked import CONTEXT
from .tiny import tiny_data, tiny_engine, tiny_model

EPOCHS = 3
PLACES = {
    "training": (Trainer, "fit"),
    "checkpoint": (CheckpointFiles, "save_checkpoint"),
    "cache": (FeatureCache, "_train_on_maps"),
    "moving": (sys.modules[__name__], "export_texts"),
    "prediction": (prediction, "_predict"),
}
"""What the moments are counted in."""


class End(NamedTuple):
    """When and how a run ends.

    Attributes:
        place: One of ``PLACES``.
        moment: Calls of functions in that place until the first signal.
        signals: Which are sent.
        pause: Calls between them.
    """

    place: str
    moment: int
    signals: tuple[int, ...] = (signal.SIGKILL,)
    pause: int = 0


class FullDisk(Callback):
    """The disk is full after the first epoch."""

    def on_train_epoch_start(self, trainer, _):
        if trainer.current_epoch == 1:
            fill_disk()


def fill_disk():
    """Let no file grow beyond a few bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def train(folder, root, callbacks=(), **arguments):
    """Train, resuming from the last checkpoint in the folder if there is one; write the weights at the end."""
    seed_everything(0)
    found = sorted(folder.rglob("model.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    model = tiny_model(lr=1e-2)
    engine = tiny_engine(folder, max_epochs=EPOCHS, callbacks=list(callbacks))
    data = tiny_data(root, train_batch_size=2, **arguments)
    engine.fit(model, datamodule=data, ckpt_path=found[-1] if found else None)
    torch.save(model.state_dict(), folder / "weights.pt")


def train_on_augmented(folder, root, callbacks=()):
    """Train on images that chance changes, so that all random states matter."""
    train(folder, root, callbacks, train_augmentations=Compose([RandomHorizontalFlip(), ColorJitter(0.3)]))


def train_on_cached(folder, root):
    """Train on cached maps."""
    train(folder, root, [FeatureCache(folder / "cache")])


def train_until_the_disk_is_full(folder, root):
    """Train, and fail at the second checkpoint."""
    train_on_augmented(folder, root, [FullDisk()])


def export(folder, checkpoint):
    """Export to OpenVINO."""
    VQFlow.load_from_checkpoint(checkpoint).to_openvino(folder)


def export_to_a_disk_that_fills(folder, checkpoint):
    """Export to OpenVINO; the disk is full when its files are to be written."""
    save = VQFlow._save_openvino

    def fill_and_save(*arguments):
        fill_disk()
        save(*arguments)

    VQFlow._save_openvino = fill_and_save
    export(folder, checkpoint)


def export_texts(folder, text):
    """Write a text in place of each file of a model."""
    with whole_files(folder, ExportType.OPENVINO) as unfinished:
        for name in ("metadata.json", "model.bin", "model.xml"):
            (create_export_root(unfinished, ExportType.OPENVINO) / name).write_text(text)


def predict(folder, checkpoint, root):
    """Predict with a table and all kinds of files."""
    kinds = [f"--{kind}={folder / kind}" for kind in ("masks", "heat-maps", "maps")]
    prediction.main([str(checkpoint), str(root), f"--output={folder / 'table.csv'}", *kinds, "--readers=1"])


def run(job, *arguments, end=None, end_after=None, disk_is_full=False):
    """Run a function of this module in a process of its own.

    Args:
        job: The function.
        arguments: Its arguments.
        end: When the process ends; None for its own end.
        end_after: Seconds after which it ends, and the signal, instead.
        disk_is_full: Whether no file can grow.

    Returns:
        Its exit code, and how many calls the places saw, where a place within another counts for itself; or what the
        process said if it failed.
    """
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_main, args=(send, job, arguments, end, disk_is_full))
    process.start()
    send.close()
    if end_after is not None:
        process.join(end_after[0])
        if process.is_alive():
            os.kill(process.pid, end_after[1])
    try:
        found = receive.recv()
    except EOFError:
        found = {}
    process.join()
    return process.exitcode, found


def _main(send, job, arguments, end, disk_is_full):
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.stderr = io.TextIOWrapper(io.BytesIO(), write_through=True)
    counts = dict.fromkeys(PLACES, 0)
    for place in PLACES if end is None else [end.place]:
        _watch(place, counts, end)
    if disk_is_full:
        fill_disk()
    try:
        getattr(sys.modules[__name__], job.__name__)(*arguments)  # which is watched
    except BaseException as error:
        send.send(f"{error} {sys.stderr.buffer.getvalue().decode()}")
        raise
    send.send(counts)


def _watch(place, counts, end):
    """Count the calls in a place, and send the signals at their moments."""
    owner, name = PLACES[place]
    function = getattr(owner, name)
    due = [] if end is None else [end.moment + number * end.pause for number in range(len(end.signals))]

    def count(_frame, event, _argument):
        if event in {"call", "c_call"}:
            counts[place] += 1
            if counts[place] in due:
                os.kill(os.getpid(), end.signals[due.index(counts[place])])

    def watched(*arguments, **options):
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            return function(*arguments, **options)
        finally:
            sys.setprofile(before)

    setattr(owner, name, watched)


def moments(seed, count, last):
    """Draw moments, one of each of equally long parts of the calls."""
    generator = np.random.default_rng(seed)
    return [int((number + generator.random()) * last / count) + 1 for number in range(count)]


def weights_in(folder: Path):
    """Read what a training wrote at its end; None if it has not come to it."""
    path = folder / "weights.pt"
    return torch.load(path, weights_only=True) if path.exists() else None
