# SPDX-License-Identifier: Apache-2.0
"""Save a model whose products have changed."""

from pathlib import Path

from lightning.pytorch import Trainer

from anomalib_vqflow.checkpoint_files import CheckpointFiles
from anomalib_vqflow.lightning_model import VQFlow


def save_checkpoint(model: VQFlow, path: Path) -> None:
    """Write a checkpoint that predicts; no training can be resumed from it.

    Args:
        model: A trained model.
        path: File to write; made whole or not at all.

    Raises:
        FileExistsError: If there is a file already.
    """
    if path.exists():
        msg = f"{path} exists already; choose another name."
        raise FileExistsError(msg)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(model)
    trainer.strategy.checkpoint_io = CheckpointFiles(trainer.strategy.checkpoint_io)
    trainer.save_checkpoint(path, weights_only=True)
