# SPDX-License-Identifier: Apache-2.0
"""Lightning callback that computes the maps of every training image once, and lets all epochs train on them."""

from contextlib import ExitStack
from pathlib import Path
from typing import Literal, cast

import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from anomalib_vqflow.lightning_model import VQFlow

from .dataset import CachedImages
from .identity import check, context_key, image_key
from .records import MIB, RecordFiles, Records, encode

DTYPES = ["float16", "bfloat16"]


class FeatureCache(Callback):
    """Compute what the frozen backbone sees in the training images once, before the first epoch.

    All epochs then train on these maps. The order of images, the random numbers and, up to the rounding of the maps to
    half precision, the results are those of training without it. Validation and test do not use it.

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
            msg = f"dtype must be one of {DTYPES}, got {dtype!r}."
            raise ValueError(msg)
        self.dtype = dtype
        self.records: Records = {} if folder is None else RecordFiles(Path(folder).absolute())
        self._undo = ExitStack()

    def clear(self) -> None:
        """Delete all maps, also those of other trainings in the same folder."""
        self.records.clear()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be cached; see the class."""
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, VQFlow) or not isinstance(datamodule, AnomalibDataModule):
            got = f"{type(pl_module).__name__} and {type(datamodule).__name__}"
            msg = f"FeatureCache serves VQFlow and anomalib's datamodules, got {got}; leave FeatureCache out."
            raise TypeError(msg)
        check(datamodule, pl_module)
        configure = pl_module.configure_optimizers

        def configure_on_maps() -> OptimizerLRSchedulerConfig:
            self._train_on_maps(trainer, pl_module, datamodule)
            return configure()

        # Lightning has no hook for callbacks at this moment: the model has its weights, also those of a checkpoint, and
        # is on its device, but asks for the training data, whose loader starts worker processes, only in `configure`.
        pl_module.configure_optimizers = configure_on_maps  # type: ignore[method-assign]
        self._undo.callback(delattr, pl_module, "configure_optimizers")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a datamodule that trains on other data than its ``train_data``."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(trainer.train_dataloader, "dataset", None) is not datamodule.train_data:
            msg = f"{type(datamodule).__name__} does not train on its `train_data` alone; leave FeatureCache out."
            raise TypeError(msg)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the model and the datamodule back what is theirs."""
        self._undo.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same after an error."""
        self._undo.close()

    @isolate_rng()
    def _train_on_maps(self, trainer: Trainer, model: VQFlow, datamodule: AnomalibDataModule) -> None:
        """Compute the maps that are missing, and let the datamodule train on all."""
        images = datamodule.train_data
        first = cast("ImageItem", images[0])
        shape = cast("Tensor", first.image).shape
        record_bytes = len(encode(self._maps(trainer, model, [first], shape)[0]))
        folder = f"vqflow-{context_key(model, str(trainer.precision), self.dtype)[:32]}"
        keys = [f"{folder}/{image_key(images, index)}" for index in range(len(images))]
        missing = {key: index for index, key in enumerate(keys) if key not in self.records}
        mib = len(set(keys)) * record_bytes / MIB
        size = f"{len(set(keys)):,} images, {mib:,.1f} MiB; {len(missing):,} of them are to be computed"
        rank_zero_info(f"Feature cache in {getattr(self.records, 'root', 'memory')}: {size}.")
        if isinstance(self.records, RecordFiles):
            self.records.reserve(len(missing), record_bytes)
        else:
            self.records = {key: self.records[key] for key in set(keys) - missing.keys()}
        loader: DataLoader = DataLoader(
            Subset(images, list(missing.values())),
            batch_size=datamodule.train_batch_size,
            num_workers=datamodule.num_workers,
            collate_fn=list,
        )
        batches = track(loader, "Feature cache", transient=True, disable=trainer.progress_bar_callback is None)
        computed = (maps for items in batches for maps in self._maps(trainer, model, items, shape))
        for (key, index), maps in zip(missing.items(), computed, strict=True):
            if key != f"{folder}/{image_key(images, index)}":
                msg = f"{images.samples.image_path[index]} has changed while it was read; train again."
                raise ValueError(msg)
            self.records[key] = encode(maps)
        datamodule.train_data = CachedImages(images.samples, keys, self.records, shape)
        self._undo.callback(setattr, datamodule, "train_data", images)

    @torch.no_grad()
    def _maps(self, trainer: Trainer, model: VQFlow, items: list[ImageItem], shape: torch.Size) -> list[list[Tensor]]:
        """Compute maps, ``(T, h, w, C)`` for T tiles or one image, and tokens, of images of one shape; rounded."""
        tensors = [cast("Tensor", item.image) for item in items]
        for item, tensor in zip(items, tensors, strict=True):
            if tensor.shape != shape:
                msg = (
                    f"FeatureCache needs images of one size after preprocessing, which {item.image_path} has not. Give "
                    "the pre-processor a Resize with height and width, or leave FeatureCache out."
                )
                raise ValueError(msg)
        images = model.prepare(cast("Tensor", ImageBatch(image=torch.stack(tensors)).image))  # as a training step gets
        with trainer.precision_plugin.train_step_context():
            features = model.model.see(images)
        maps = [m.permute(0, 2, 3, 1).contiguous() for m in (*features.details, features.semantic)]
        tokens = [] if features.tokens is None else [features.tokens.contiguous()]
        exact = [m.unflatten(0, (len(items), -1)) for m in (*maps, *tokens)]
        rounded = [m.to("cpu", getattr(torch, self.dtype)) for m in exact]
        for row, item in enumerate(items):
            if not images[row].isfinite().all():
                msg = f"Images have NaN or infinite pixels: {item.image_path}. Repair or remove them."
                raise ValueError(msg)
            if not all(m[row].isfinite().all() for m in rounded):
                finite = all(m[row].isfinite().all() for m in exact)
                what = f"beyond the range of {self.dtype}" if finite else "NaN or infinite"
                cure = "Use FeatureCache(dtype='bfloat16')" if finite else "Train in precision 32 if it is lower"
                msg = f"The backbone's maps of {item.image_path} are {what}. {cure}, or leave FeatureCache out."
                raise ValueError(msg)
        return [[m[row] for m in rounded] for row in range(len(items))]
