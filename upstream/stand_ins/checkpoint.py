# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that need no download: they hold the backbone's weights."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from .naming import first_names


class CheckpointMixin(LightningModule):
    """Checkpoints that load without network, and that no broken model overwrites."""

    model: nn.Module
    lr: float

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a model that is built from the checkpoint take its weights from there.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If a weight is not finite: the last checkpoint is not to be overwritten by a broken model.
        """
        super().on_save_checkpoint(checkpoint)
        broken = [name for name, parameter in self.model.named_parameters() if not parameter.isfinite().all()]
        if broken:
            msg = (
                f"Not saving a broken model: weights are NaN or infinite ({first_names(broken)}). Resume from the last "
                f"checkpoint with a smaller lr (now {self.lr}), or with precision 32 if it was lower."
            )
            raise ValueError(msg)
        checkpoint["hyper_parameters"]["pre_trained"] = False
