# SPDX-License-Identifier: Apache-2.0
"""What a batch may hold: images, maps that are known already, broken images, a single image."""

from typing import cast

from anomalib.data import Batch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from .features import Features
from .naming import first_names


class BatchMixin(LightningModule):
    """Read batches, and deal with those that cannot be trained on."""

    model: nn.Module
    lr: float
    _told_short_batch = False

    def _images(self, batch: Batch) -> Tensor:
        return cast("Tensor", batch.image).to(self.dtype)  # anomalib's batches are float32, even in precision 64

    def _known_features(self, batch: Batch) -> Features | None:
        """Get the backbone's maps from a batch of :class:`.FeatureCache`; None if the batch does not carry them."""
        features: Features | None = getattr(batch, "features", None)
        return None if features is None else features.apply(lambda values: values.to(self.dtype))

    def _explain_broken_loss(self, batch: Batch, loss: Tensor) -> str:
        where = f"The loss became {loss.item()} in epoch {self.current_epoch}, step {self.global_step}."
        safe = "The weights were not changed, and the last checkpoint is good."
        broken = broken_images(batch)
        if broken:
            names = first_names(broken)
            return f"{where} Images have NaN or infinite pixels: {names}. Repair or remove them. {safe}"
        return f"{where} {safe} Resume from it with a smaller lr (now {self.lr}), or in precision 32 if it was lower."

    def _leave_out_short_batch(self, batch_idx: int) -> None:
        if batch_idx == 0:
            msg = (
                "VQ-Flow cannot train on single images, because its encoders normalize over the batch, but the first "
                "batch has one. Set train_batch_size to 2 or more, and train on at least two images."
            )
            raise ValueError(msg)
        if not self._told_short_batch:
            rank_zero_warn("The last batch of an epoch has a single image and is left out of the training.")
            self._told_short_batch = True


def broken_images(batch: Batch) -> list[str]:
    """Name the images that have pixels which are NaN or infinite.

    Args:
        batch: Any batch.

    Returns:
        Paths, or positions in the batch where it has no paths.
    """
    images = cast("Tensor", batch.image)
    finite = images.isfinite().flatten(1).all(dim=1)
    if finite.all():
        return []
    paths = getattr(batch, "image_path", None) or [f"number {index} of a batch" for index in range(len(images))]
    return [path for path, good in zip(paths, finite.tolist(), strict=True) if not good]
