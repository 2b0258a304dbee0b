# SPDX-License-Identifier: Apache-2.0
"""Image files are read in prediction as in training, and refused where anomalib would read other pixels."""

from typing import Any, cast

from anomalib.data import AnomalibDataModule, Batch, ImageBatch, ImageItem, PredictDataset
from anomalib.data.datasets import AnomalibDataset
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from .data import MultiCategory, read_image
from .data.reading import opened, read_header
from .naming import first_names

BIT_DEPTH_KEY = "vqflow_bit_depth"


class ImageFilesMixin(LightningModule):
    """Know the range of the training's images, and see to it that images are read by it.

    Attributes:
        bit_depth: Bits that the training's image files of 16 bits really use; None if it had none.
    """

    bit_depth: int | None = None

    def setup(self, stage: str) -> None:
        """Agree with the datamodule on the range of 16-bit images.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If images use more bits than those of the training, or a datamodule of anomalib's has images
                that it would misread.
        """
        super().setup(stage)
        self._agree_with_data()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the range of 16-bit images."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[BIT_DEPTH_KEY] = self.bit_depth

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the range of 16-bit images."""
        super().on_load_checkpoint(checkpoint)
        self.bit_depth = checkpoint.get(BIT_DEPTH_KEY)
        if self._trainer is not None:
            self._agree_with_data()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Read images again that anomalib's ``PredictDataset`` has misread, before anything is done to them.

        Args:
            batch: A batch of any stage.
            dataloader_idx: Number of its loader.

        Returns:
            The batch, or one with the right pixels.
        """
        if not self.trainer.predicting:
            return batch
        loaders = self.trainer.predict_dataloaders
        dataset = getattr(loaders[dataloader_idx] if isinstance(loaders, list) else loaders, "dataset", None)
        paths = cast("list[str]", getattr(batch, "image_path", None) or [])
        if not isinstance(dataset, PredictDataset) or all(map(_is_plain, paths)):
            return batch
        items = [ImageItem(image=read_image(path, self.bit_depth), image_path=path) for path in paths]
        if (transform := dataset.transform) is not None:
            for item in items:
                item.image = transform(item.image)
        return cast("Batch", ImageBatch.collate(items))

    def _agree_with_data(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, MultiCategory):
            if self.bit_depth is not None:
                datamodule.use_bit_depth(self.bit_depth)
            elif self.trainer.state.fn == TrainerFn.FITTING:
                self.bit_depth = datamodule.bit_depth
        elif isinstance(datamodule, AnomalibDataModule):
            _refuse_misread_images(datamodule)


def _is_plain(path: str) -> bool:
    with opened(path) as image:
        return read_header(image).is_plain


def _refuse_misread_images(datamodule: AnomalibDataModule) -> None:
    """Refuse images that anomalib's own datasets read otherwise than we do."""
    subsets = [getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test")]
    frames = [subset.samples for subset in subsets if isinstance(subset, AnomalibDataset)]
    paths = dict.fromkeys(path for frame in frames for path in frame.get("image_path", ()))
    if misread := [path for path in paths if not _is_plain(path)]:
        kind = type(datamodule).__name__
        msg = (
            f"anomalib misreads {len(misread)} images of more than 8 bits or with an orientation in EXIF: "
            f"{first_names(misread)}. Give the data as MultiCategory(datamodules=[{kind}(...)]), which reads them, or "
            "convert the images."
        )
        raise ValueError(msg)
