# SPDX-License-Identifier: Apache-2.0
"""Evaluator that reports every category, their mean, and all images together."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric, Evaluator
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from .category_scores import CategoryScores, gather
from .report import MACRO, POOLED, CategoryRow, macro_row, print_line, print_table, to_scalars, write_report
from .scores import PixelScores

logger = logging.getLogger(__name__)

ANOMALIB_NAMES = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score")
# Bound for AUROC. Padim, PatchCore and VQ-Flow with small random backbones had 1e-5 to 2e-4 on real images; on random
# maps, AP and F1max were off by 3e-3 where the bound was 1.5e-3, and by 3e-2 where it was 1.2e-2.
MAX_BINNING_ERROR = 1e-3
SPLIT_FOLDERS = frozenset({"train", "val", "validation", "test"})


class CategoryEvaluator(Evaluator):
    """Report image and pixel metrics per category, as the mean of categories (macro), and over all images (pooled).

    Works for every anomalib model and datamodule. The metrics over thresholds are computed on raw scores: before the
    post-processor normalizes and clamps them, which makes ties, and without torchmetrics' sigmoid. Image metrics are
    exact. Pixel metrics use bins narrower than 1/2048 of the score, which makes memory independent of the number of
    images: 26 MB for every category, and about 2 ms for an image of 256×256 pixels. A warning tells if that can move
    pixel AUROC by more than 0.001; AP and F1max then move by a few times as much. ``image_F1Score`` and
    ``pixel_F1Score`` are taken at the threshold that the model really uses.

    At the end of a test the results are printed, written to ``category_metrics.csv`` and ``category_metrics.json`` in
    the trainer's ``default_root_dir``, and logged as ``bottle/image_AUROC``, ``macro/image_AUROC`` and so on to every
    logger; anomalib's usual ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC`` and ``pixel_F1Score`` are the pooled
    ones. What is not evaluable, such as pixels of a category without masks, is a dash, and not part of the means.

    Args:
        aupimo: Whether to report AUPIMO, too, between false positive rates of 1e-5 and 1e-4; that needs at least
            100,000 pixels of normal test images in a category.
        val_metrics: Further metrics for validation.
        test_metrics: Further metrics for test.
        compute_on_cpu: Whether the further metrics are computed on the CPU.
    """

    def __init__(
        self,
        aupimo: bool = False,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
    ) -> None:
        super().__init__(val_metrics, test_metrics, compute_on_cpu)
        self.aupimo = aupimo
        self.results: dict[str, CategoryRow] = {}
        self._scores: dict[str, CategoryScores] = {}
        self._category_by_path: dict[str, str] = {}
        self._raw_hook = _RawScores(self)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier results, and place a hook before the post-processor."""
        del pl_module
        self._scores, self.results = {}, {}
        self._category_by_path = dict(getattr(getattr(trainer, "datamodule", None), "category_by_path", {}))
        self._raw_hook.collects = True
        _set_callbacks(trainer, [self._raw_hook, *_others(trainer, self._raw_hook)])

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the decisions of the model."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not self._raw_hook.collects:
            self.collect_scores(trainer, batch)
        for category, index in self._by_category(trainer, batch).items():
            scores = self._scores[category]
            if batch.pred_label is not None and batch.gt_label is not None:
                scores.image_decisions.update(batch.pred_label[index], batch.gt_label[index])
            if batch.pred_mask is not None and batch.gt_mask is not None:
                scores.pixel_decisions.update(_planes(batch.pred_mask)[index], _planes(batch.gt_mask)[index])

    def collect_scores(self, trainer: Trainer | None, batch: ImageBatch) -> None:
        """Collect the scores of a batch.

        Args:
            trainer: Trainer whose datamodule knows the categories, if there is one.
            batch: Batch with raw predictions.
        """
        image_scores = _image_scores(batch)
        for category, index in self._by_category(trainer, batch).items():
            scores = self._scores.setdefault(category, CategoryScores(self.aupimo))
            if image_scores is not None and batch.gt_label is not None:
                scores.images.update(image_scores[index], batch.gt_label[index])
            if batch.anomaly_map is not None and batch.gt_mask is not None:
                scores.pixels = scores.pixels or PixelScores(self.aupimo)
                scores.pixels.update(_planes(batch.anomaly_map)[index], _planes(batch.gt_mask)[index])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, print, write and log the results."""
        super().on_test_epoch_end(trainer, pl_module)
        self._raw_hook.collects = False
        self.results = self.compute()
        self._scores = {}
        if not self.results:
            return
        self._log_usual_names(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        for trainer_logger in trainer.loggers:
            trainer_logger.log_metrics(to_scalars(self.results), step=trainer.global_step)
        rows = self.results if len(self.results) > 3 else dict(list(self.results.items())[:1])  # one is mean and pool
        print_table(rows, "Results per category")
        try:
            files = write_report(self.results, Path(trainer.default_root_dir))
        except OSError as error:  # a full disk must not end a test whose results are printed
            logger.warning("Could not write the results per category to %s: %s", trainer.default_root_dir, error)
        else:
            print_line(f"Written to {' and '.join(map(str, files))}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook."""
        del pl_module
        _set_callbacks(trainer, _others(trainer, self._raw_hook))

    def compute(self) -> dict[str, CategoryRow]:
        """Compute the results of what was collected, from all processes.

        Returns:
            Results by category, then ``"macro"`` and ``"pooled"``; empty if nothing was collected.
        """
        gathered = gather(self._scores)
        if not gathered:
            return {}
        rows = {name: scores.row() for name, scores in sorted(gathered.items())}
        pooled = CategoryScores(self.aupimo)
        for name, scores in gathered.items():
            pooled.merge(scores, pixels=scores.has_masks)
            _warn_of_ties(name, scores)
        return rows | {MACRO: macro_row(rows), POOLED: pooled.row()}

    def _log_usual_names(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ANOMALIB_NAMES:
            value = self.results[POOLED].metrics[name]
            if math.isnan(value):
                continue
            pl_module.log(name, value, sync_dist=trainer.world_size > 1)  # equal in all processes
            if trainer.barebones:  # logging is off; anomalib's evaluator sets these itself, too
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)

    def _by_category(self, trainer: Trainer | None, batch: ImageBatch) -> dict[str, list[int]]:
        datamodule = getattr(trainer, "datamodule", None)
        fallback = getattr(datamodule, "category", None) or "all"
        members: dict[str, list[int]] = {}
        for index, path in enumerate(batch.image_path or [""] * batch.batch_size):
            category = self._category_by_path.get(path) or category_of_path(path) or fallback
            category = f"{category}_" if category in {MACRO, POOLED} else category
            members.setdefault(category, []).append(index)
        return members


class _RawScores(Callback):
    """Hand every batch to the evaluator before the post-processor changes it."""

    def __init__(self, evaluator: CategoryEvaluator) -> None:
        self._collect = evaluator.collect_scores
        self.collects = False

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del pl_module, outputs, batch_idx, dataloader_idx
        self._collect(trainer, batch)


def category_of_path(path: str) -> str | None:
    """Read the category from a path in MVTec layout.

    Args:
        path: Path of an image.

    Returns:
        The category, or None if the path has another layout.

    Example:
        >>> category_of_path("datasets/MVTecAD/bottle/test/good/000.png")
        'bottle'
    """
    parts = PurePath(path).parts
    return parts[-4] if len(parts) >= 4 and parts[-3] in SPLIT_FOLDERS else None


def _image_scores(batch: ImageBatch) -> Tensor | None:
    if batch.pred_score is not None:
        scores = batch.pred_score.flatten()
    elif batch.anomaly_map is not None:
        scores = _planes(batch.anomaly_map).amax(dim=(1, 2))  # as anomalib's post-processor does
    else:
        return None
    if scores.isnan().any():
        paths = [path for path, score in zip(batch.image_path or [], scores.tolist(), strict=False) if score != score]
        logger.warning("The model gave NaN as score, which no threshold flags, for %s", ", ".join(paths) or "an image")
    return scores


def _warn_of_ties(name: str, scores: CategoryScores) -> None:
    error = scores.pixels.error() if scores.pixels is not None else 0.0
    if error > MAX_BINNING_ERROR:
        rank_zero_warn(
            f"Pixel AUROC of {name} may be off by up to {error:.3f}, AP and F1max by a few times as much, because many "
            "values of its anomaly maps are (nearly) equal: they saturate, or lie far from zero in a narrow range."
        )


def _others(trainer: Trainer, hook: Callback) -> list[Callback]:
    return [callback for callback in trainer.callbacks if callback is not hook]  # type: ignore[attr-defined]


def _set_callbacks(trainer: Trainer, callbacks: list[Callback]) -> None:
    # A new list, because Lightning may be walking through the old one.
    trainer.callbacks = callbacks  # type: ignore[attr-defined]


def _planes(maps: Tensor) -> Tensor:
    return maps.reshape(maps.shape[0], *maps.shape[-2:])
