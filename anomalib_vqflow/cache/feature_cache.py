# SPDX-License-Identifier: Apache-2.0
"""Lightning callback that computes the maps of every training image once, and lets all passes train on them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from anomalib.data.datasets import AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from anomalib_vqflow.features import Features
from anomalib_vqflow.lightning_model import VQFlow

from .identity import check, describe, image_key
from .images import CachedImages, Layout, layout_of, pack
from .store import MIB, Context, DiskStore, FeatureStore, MemoryStore

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class FeatureCache(Callback):
    """Compute what the frozen backbone sees in the training images once, before the first pass.

    All passes then train on the kept maps, without reading, resizing and the backbone. The order of images, the random
    numbers and, up to the rounding of the maps to half precision, the results are those of training without it.
    Validation and test do not use it.

    Nothing stale is used: maps are found by the content of the image file, the transforms, the backbone and its very
    weights, the precision and the versions of the libraries involved. Files are looked at when training starts. In
    distributed training, every process has its own copy in memory; on disk they share the files.

    Args:
        folder: Folder for the maps, for this and later trainings; None for memory.
        dtype: ``float16``, or ``bfloat16``, which rounds eight times coarser but never overflows.

    Raises:
        TypeError: When training starts, if the model is no :class:`.VQFlow`, or the data is no anomalib datamodule of
            image files.
        ValueError: If the dtype is unknown; when training starts, if training images are augmented, differ in size
            after preprocessing, are not finite, or have maps out of the range of the dtype.
        OSError: If the disk is full.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[FeatureCache()])
    """

    def __init__(self, folder: str | Path | None = None, dtype: Literal["float16", "bfloat16"] = "float16") -> None:
        if dtype not in DTYPES:
            msg = f"dtype must be one of {list(DTYPES)}, got {dtype!r}."
            raise ValueError(msg)
        self.dtype = dtype
        self._failure: Exception | None = None
        self.store: FeatureStore = MemoryStore() if folder is None else DiskStore(Path(folder).absolute())

    def clear(self) -> None:
        """Delete all maps, also those of other trainings in the same folder."""
        self.store.clear()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be cached, and see to it that training data comes from the cache.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Nothing is done for any but ``fit``.

        Raises:
            TypeError: See the class.
            ValueError: See the class.
        """
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, VQFlow) or not isinstance(datamodule, AnomalibDataModule):
            msg = (
                "FeatureCache serves VQFlow and anomalib's datamodules, got "
                f"{type(pl_module).__name__} and {type(datamodule).__name__}; leave FeatureCache out."
            )
            raise TypeError(msg)
        check(datamodule, pl_module)
        # The maps are computed when the trainer asks for the loader: the model has its weights by then, also those of a
        # checkpoint, and is on its device, but no worker process has been started.
        load = partial(self._train_dataloader, trainer, pl_module, datamodule, datamodule.train_dataloader)
        datamodule.train_dataloader = load  # type: ignore[method-assign]
        self._failure = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise what went wrong when the maps were computed.

        Args:
            trainer: Unused.
            pl_module: Unused.

        Raises:
            TypeError: See the class.
            ValueError: See the class.
            OSError: See the class.
        """
        del trainer, pl_module
        if self._failure is not None:
            raise self._failure

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the same where the loader was asked for late, or again; see :meth:`on_fit_start`."""
        self.on_fit_start(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the datamodule its own training data back.

        Args:
            trainer: The trainer.
            pl_module: Unused.
            stage: Unused.
        """
        del pl_module, stage
        if (datamodule := getattr(trainer, "datamodule", None)) is not None:
            vars(datamodule).pop("train_dataloader", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the datamodule its own training data back.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: Unused.
        """
        del exception
        self.teardown(trainer, pl_module, "fit")

    def _train_dataloader(
        self, trainer: Trainer, model: VQFlow, datamodule: AnomalibDataModule, load: Callable[[], DataLoader]
    ) -> DataLoader:
        """Let the datamodule build its loader as always, but over the maps."""
        images = datamodule.train_data
        try:
            with isolate_rng():
                maps = self._fill(trainer, model, datamodule)
        except Exception as error:  # noqa: BLE001
            # Lightning wraps torch's DataLoader while it asks for loaders; an error would leave it wrapped for good.
            self._failure = error
            return load()
        datamodule.train_data = maps  # type: ignore[assignment]
        try:
            loader = load()
        finally:
            datamodule.train_data = images
        if getattr(loader, "dataset", None) is not maps:
            msg = f"{type(datamodule).__name__} does not train on its `train_data` alone; leave FeatureCache out."
            self._failure = TypeError(msg)
        return loader

    def _fill(self, trainer: Trainer, model: VQFlow, datamodule: AnomalibDataModule) -> CachedImages:
        """Compute the maps that are not there yet."""
        images = datamodule.train_data
        keys = [image_key(images, index) for index in range(len(images))]
        layout = self._open(trainer, model, images)
        missing = {key: index for index, key in enumerate(keys) if key not in self.store}
        record = self.store.context.record_bytes / MIB
        place = self.store.root if isinstance(self.store, DiskStore) else "memory"
        rank_zero_info(
            f"Feature cache in {place}: {len(set(keys)):,} images, {len(set(keys)) * record:,.1f} MiB; "
            f"{len(missing):,} images, {len(missing) * record:,.1f} MiB, are to be computed."
        )
        if missing:
            self.store.reserve(len(missing))
        loader: DataLoader = DataLoader(
            Subset(images, list(missing.values())),
            batch_size=datamodule.train_batch_size,
            num_workers=datamodule.num_workers,
            collate_fn=list,
        )
        rest = iter(missing.items())
        quiet = trainer.progress_bar_callback is None
        for items in track(loader, "Feature cache", transient=True, disable=quiet):
            for row in self._rows(trainer, model, items, layout):
                key, index = next(rest)
                if key != image_key(images, index):
                    msg = f"{images.samples.image_path[index]} has changed while it was read; train again."
                    raise ValueError(msg)
                self.store.write(key, row)
        return CachedImages(images.samples, keys, self.store, layout)

    def _open(self, trainer: Trainer, model: VQFlow, images: AnomalibDataset) -> Layout:
        """Find out from the first image how large the maps are, and open the store for them."""
        first = cast("ImageItem", images[0])
        height, width = cast("Tensor", first.image).shape[-2:]
        layout = layout_of(_features(trainer, model, [first]), (height, width))
        description = {
            **describe(model, str(trainer.precision)),
            "dtype": self.dtype,
            "maps": layout.shapes,
            "image_size": layout.image_size,
        }
        name = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
        self.store.open(Context(name, description, layout.num_values, DTYPES[self.dtype]))
        return layout

    def _rows(self, trainer: Trainer, model: VQFlow, items: list[ImageItem], layout: Layout) -> Tensor:
        """Compute the records of some images."""
        features = _features(trainer, model, items)
        if layout_of(features, layout.image_size) != layout:
            raise ValueError(_sizes_differ(items))
        exact = pack(features)
        rows = exact.to("cpu", DTYPES[self.dtype])
        for item, finite, stored in zip(items, exact.isfinite().all(1), rows.isfinite().all(1), strict=True):
            if not stored:
                what = f"beyond the range of {self.dtype}" if finite else "NaN or infinite"
                cure = "Use FeatureCache(dtype='bfloat16')" if finite else "Train in precision 32 if it is lower"
                msg = f"The backbone's maps of {item.image_path} are {what}. {cure}, or leave FeatureCache out."
                raise ValueError(msg)
        return rows


@torch.no_grad()
def _features(trainer: Trainer, model: VQFlow, items: list[ImageItem]) -> Features:
    """Compute the maps of some images as a training step does."""
    if len({cast("Tensor", item.image).shape for item in items}) > 1:
        raise ValueError(_sizes_differ(items))
    stack = torch.stack([cast("Tensor", item.image) for item in items])
    images = model.prepare(cast("Tensor", ImageBatch(image=stack).image))  # of the type that transforms get in training
    for item, image in zip(items, images, strict=True):
        if not image.isfinite().all():
            msg = f"Images have NaN or infinite pixels: {item.image_path}. Repair or remove them."
            raise ValueError(msg)
    with trainer.precision_plugin.train_step_context():
        return model.model.features(images)


def _sizes_differ(items: Sequence[ImageItem]) -> str:
    return (
        "FeatureCache needs images of one size after preprocessing, but there are others near "
        f"{items[0].image_path}. Give the pre-processor a Resize with height and width, or leave FeatureCache out."
    )
