# SPDX-License-Identifier: Apache-2.0
"""Validation, tests and predictions without regions that shall not count."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor, nn

from .data.reading import opened, upright_size
from .ignored import IgnoredRegions, ScoreRule

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from .anomaly_map import Scores
    from .torch_model import VQFlowModel


class IgnoreRegions(Callback):
    """Let regions of images count for nothing: not in scores, maps and thresholds, nor in the ground truth.

    Ignored pixels are normal, whatever is there, and an image whose defects are all ignored is a normal one. Training
    itself and the calibration to training images still see them. ``vqflow-predict --ignore`` takes the same masks.

    Args:
        place: A PNG for all images, white where pixels shall not count, or a folder with ``<product>.png`` for images
            in folders of this name. Its size does not matter, its proportions do.

    Raises:
        ValueError: When a run begins, if a mask cannot be used, or there are tiles; later, if it has other proportions
            than an image.

    Example:
        >>> from anomalib.engine import Engine
        >>> from anomalib_vqflow import IgnoreRegions
        >>> engine = Engine(callbacks=[IgnoreRegions("masks")])
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self._regions: IgnoredRegions | None = None
        self._raw_score_maps: Tensor | None = None  # of the last batch
        self._hook: RemovableHandle | None = None
        self._matched = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the masks.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If a mask cannot be used, or the model cuts images into tiles.
        """
        del trainer, stage
        network = cast("VQFlowModel", pl_module.model)
        if network.tiles is not None:
            msg = "IgnoreRegions does not go with tile_size, because scores are those of tiles; leave one of them out."
            raise ValueError(msg)
        generator = network.anomaly_map_generator
        rule = ScoreRule(generator.top_k_ratio, generator.needs_log_det)
        self._regions, self._matched = IgnoredRegions(self.place, rule), False
        self._hook = generator.register_forward_hook(self._keep_raw_score_maps)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the model as it was.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: As in :meth:`setup`.
        """
        del trainer, pl_module, stage
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._raw_score_maps = None

    def _keep_raw_score_maps(self, _module: nn.Module, _inputs: tuple[object, ...], output: "Scores") -> None:
        self._raw_score_maps = output.raw_score_map

    def on_validation_batch_end(  # type: ignore[override]  # anomalib's batches, here and below
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object, **kwargs: object
    ) -> None:
        """Take the regions out of a batch.

        Args:
            trainer: The trainer.
            pl_module: The model.
            outputs: Raw predictions, with ground truth, changed in place.
            args: Unused.
            kwargs: Unused.
        """
        del trainer, pl_module, args, kwargs
        paths = cast("list[str] | None", getattr(outputs, "image_path", None)) or [""] * len(
            cast("Tensor", outputs.image)
        )
        maps, scores = cast("Tensor", outputs.anomaly_map), cast("Tensor", outputs.pred_score)
        for index, path in enumerate(paths):
            if (ignored := self._mask_of(path, (maps.shape[-2], maps.shape[-1]))) is not None:
                regions = cast("IgnoredRegions", self._regions)
                raw_score_map = cast("Tensor", self._raw_score_maps)[index, 0]
                scores[index] = regions.score(raw_score_map.numpy(force=True), ignored)
                where = torch.tensor(ignored, device=maps.device)
                maps[index, ..., where] = 0
                _forget_truth(outputs, index, where)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if no image had a mask.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer, pl_module
        if not self._matched:
            rank_zero_warn(f"No image lies in a folder that a mask in {self.place} is named like: nothing is ignored.")

    on_test_end = on_predict_end = on_validation_end

    def _mask_of(self, path: str, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        regions = cast("IgnoredRegions", self._regions)
        if regions.name_of(path) is None:
            return None
        self._matched = True
        image = size
        if path:
            with opened(path) as file:
                image = upright_size(file)[::-1]
        try:
            return regions.mask_of(path, image, size)
        except ValueError as error:
            msg = f"{path}: {error}; draw one for it."
            raise ValueError(msg) from error


def _forget_truth(batch: Batch, index: int, ignored: Tensor) -> None:
    """Count no defect in an ignored region, and an image that has no other as normal."""
    if batch.gt_mask is None:
        return
    truth = batch.gt_mask[index]
    had_defect = truth.any()
    truth[..., ignored] = 0
    if had_defect and not truth.any() and batch.gt_label is not None:
        batch.gt_label[index] = 0
