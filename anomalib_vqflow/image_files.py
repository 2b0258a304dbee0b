# SPDX-License-Identifier: Apache-2.0
"""Image files are read in prediction as in training, and refused where anomalib would read other pixels."""

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib.data import AnomalibDataModule, Batch, ImageBatch, ImageItem, PredictDataset
from anomalib.data.datasets import AnomalibDataset
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from .data import MultiCategory, read_image
from .data.reading import opened, read_header
from .naming import first_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

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

    def configure_callbacks(self) -> list[Callback]:
        """Read what anomalib misreads, before its pre-processor gets it."""
        return [Rereading(), *cast("list[Callback]", super().configure_callbacks())]

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Draw on the images as the model saw them."""
        return TrueImageVisualizer()

    def agree_with(self, datamodule: AnomalibDataModule) -> None:
        """See to it that a datamodule reads images as that of the training did.

        Args:
            datamodule: Any datamodule that is set up.

        Raises:
            ValueError: If images use more bits than those of the training, or a datamodule of anomalib's has images
                that it would misread.
        """
        if not isinstance(datamodule, MultiCategory):
            _refuse_misread_images(datamodule)
        elif self.bit_depth is not None:
            datamodule.use_bit_depth(self.bit_depth)

    def _agree_with_data(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, AnomalibDataModule):
            return
        self.agree_with(datamodule)
        if self.trainer.state.fn == TrainerFn.FITTING and isinstance(datamodule, MultiCategory):
            self.bit_depth = datamodule.bit_depth


class Rereading(Callback):
    """Read images again that anomalib's ``PredictDataset`` has misread, before anything is done to them."""

    def on_predict_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ImageFilesMixin, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Give a batch the right pixels.

        Args:
            trainer: The trainer.
            pl_module: The model.
            batch: The batch, changed in place.
            batch_idx: Number of the batch.
            dataloader_idx: Number of its loader.

        Raises:
            ValueError: If an image has a range that the training does not tell; the message names it.
        """
        del batch_idx
        loaders = trainer.predict_dataloaders
        dataset = getattr(loaders[dataloader_idx] if isinstance(loaders, list) else loaders, "dataset", None)
        paths = cast("list[str]", getattr(batch, "image_path", None) or [])
        if not isinstance(dataset, PredictDataset) or all(map(_is_plain, paths)):
            return
        images = [read_image(path, pl_module.bit_depth) for path in paths]
        items = [ImageItem(image=dataset.transform(image) if dataset.transform else image) for image in images]
        batch.image = cast("Tensor", ImageBatch.collate(items).image).to(pl_module.device)  # type: ignore[attr-defined]


class TrueImageVisualizer(ImageVisualizer):
    """anomalib's visualizer, but on images as the model saw them, and without panels of what the model does not tell.

    anomalib's reads files by itself, so that it draws an upright map on an image that lies on its side, and shows
    images of 16 bits white.

    Args:
        fields: As in anomalib's ``ImageVisualizer``, as are all others.
    """

    def visualize(  # type: ignore[override]  # anomalib's is less strict
        self, predictions: ImageItem | ImageBatch
    ) -> Image.Image | list[Image.Image | None] | None:
        """Draw predictions side by side.

        Args:
            predictions: One image or a batch.

        Returns:
            One picture or many, None where there is nothing to draw.
        """
        drawer = copy(self)
        drawer.overlay_fields = [
            (base, names)
            for base, names in self.overlay_fields
            if any(getattr(predictions, name, None) is not None for name in names)
        ]
        return super(TrueImageVisualizer, drawer).visualize(predictions)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ImageFilesMixin,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch where anomalib's visualizer would; of prediction, too.

        Args:
            trainer: The trainer.
            pl_module: The model.
            outputs: Unused.
            batch: The batch with its predictions.
            batch_idx: Unused.
            dataloader_idx: Unused.
        """
        del outputs, batch_idx, dataloader_idx
        self.output_dir = self.output_dir or Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        for item in cast("Iterable[ImageItem]", batch):
            path = item.image_path
            if path and not _is_plain(path):
                item.image, item.image_path = read_image(path, pl_module.bit_depth), None
            if (picture := self.visualize(item)) is not None:
                names = (getattr(datamodule, "name", None), getattr(datamodule, "category", None))
                cast("Image.Image", picture).save(generate_output_filename(path or "", self.output_dir, *names))


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
