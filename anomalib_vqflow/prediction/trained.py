# SPDX-License-Identifier: Apache-2.0
"""Trained models, ``model.ckpt``, in torch; the only module of the command that imports it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anomalib_vqflow.checkpoint import NO_CHECKPOINT
from anomalib_vqflow.data import read_image
from anomalib_vqflow.export.metadata import describe_scores
from anomalib_vqflow.lightning_model import VQFlow

from .predictions import ModelError, Picture, Prediction, Raw

FLOAT32 = "f32"


class TrainedModel:
    """A model from a checkpoint.

    Args:
        path: ``model.ckpt`` of a training.
        device: Device of torch; None for a GPU if there is one.
        precision: ``f32``; there is no other.
        num_threads: Threads that compute; 0 for torch's choice.

    Attributes:
        num_requests: One image is computed at a time.
        tells_concept: Always.
        metadata: What an export would say of its scores and concepts.

    Raises:
        ModelError: If the file is no checkpoint of VQFlow, or torch knows no such device.
    """

    num_requests = 1
    tells_concept = True

    def __init__(self, path: Path, device: str | None = None, precision: str = FLOAT32, num_threads: int = 0) -> None:
        if precision != FLOAT32:
            msg = f"A checkpoint is computed in {FLOAT32}, not in {precision}; export the model for other precisions."
            raise ModelError(msg)
        if num_threads:
            torch.set_num_threads(num_threads)
        device = (device or ("cuda" if torch.cuda.is_available() else "cpu")).lower()
        try:
            model = VQFlow.load_from_checkpoint(path, map_location="cpu")
            self.metadata: dict[str, Any] | None = describe_scores(model)
        except NO_CHECKPOINT as error:
            reason = error.strerror if isinstance(error, OSError) else "no checkpoint, or a damaged one"
            msg = f"Cannot load {path} ({reason}); give the model.ckpt of a VQFlow training."
            raise ModelError(msg) from error
        except ValueError as error:
            msg = f"Cannot load {path}: {error}"
            raise ModelError(msg) from error
        try:
            self._model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            msg = f"torch cannot use the device {device}; give --device cpu or cuda."
            raise ModelError(msg) from error

    def read(self, path: Path) -> Picture:
        """Read an image as in training.

        Args:
            path: File.

        Returns:
            The image, in [0, 1].

        Raises:
            ValueError: If it cannot be read.
        """
        pixels = read_image(path, self._model.bit_depth).permute(1, 2, 0).numpy()
        return Picture(pixels, pixels)

    def start(self, picture: Picture) -> Callable[[], Prediction]:
        """Score an image.

        Args:
            picture: The image.

        Returns:
            A function that gives the prediction.
        """
        image = torch.from_numpy(picture.given).permute(2, 0, 1)[None].to(self._model.device)
        with torch.no_grad():
            raw, found = self._model.raw_and_told(image)
        has_label = found.pred_label is not None
        prediction = Prediction(
            score=found.pred_score.item(),
            label=bool(found.pred_label.item()) if has_label else None,
            threshold=float(self._model.post_processor.normalized_image_threshold) if has_label else None,
            anomaly_map=found.anomaly_map[0, 0].cpu().numpy(),
            mask=None if found.pred_mask is None else found.pred_mask[0, 0].bool().cpu().numpy(),
            concept=int(found.concept.item()),
            raw=Raw(raw.pred_score.item(), *(m[0, 0].cpu().numpy() for m in (raw.raw_map, raw.raw_score_map))),
        )
        return lambda: prediction
