# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written whole."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from .whole_file import whole_file


class CheckpointFiles(CheckpointIO):
    """Write checkpoints beside their place, and move them there.

    Lightning writes them to the system's folder for temporary files, from where they are copied if that is another file
    system: whoever ends the process in between, or fills the disk, leaves half a checkpoint in the place of a good one.

    Args:
        inner: What Lightning or anomalib chose, which does all else.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401  # Lightning's
    ) -> None:
        """Write a checkpoint, synced, so that a reader finds all of it or the one before.

        Args:
            checkpoint: Its content.
            path: Where to; addresses of other file systems are left to Lightning.
            storage_options: As in Lightning.

        Raises:
            OSError: If it cannot be written; the message says what is still there.
        """
        if storage_options is not None or "://" in str(path):
            self.inner.save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with whole_file(Path(path), sync=True) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # which torch's own error hides
            if not isinstance(cause, OSError):
                raise
            msg = (
                f"The checkpoint {path} could not be written: {cause}. The one before, if any, is still there. Free "
                "some space, and resume with it."
            )
            raise OSError(msg) from error

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint as the inner one does."""
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint.

        Args:
            path: Its file.
        """
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """End what the inner one began."""
        self.inner.teardown()
