# SPDX-License-Identifier: Apache-2.0
"""Evaluator that reports every category, their mean, and all images together."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePath

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric, Evaluator
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from pandas import DataFrame
from torch import Tensor

from anomalib_vqflow.naming import first_names

from .category_metrics import CategoryMetrics
from .results import MACRO, POOLED, print_results, save_results, to_frame, to_scalars

logger = logging.getLogger(__name__)

ANOMALIB_NAMES = ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]
# Bound for AUROC. Padim, PatchCore and VQ-Flow with small random backbones had 1e-5 to 2e-4 on real images; on random
# maps, AP and F1max were off by 3e-3 where the bound was 1.5e-3, and by 3e-2 where it was 1.2e-2.
MAX_BINNING_ERROR = 1e-3
SPLIT_FOLDERS = frozenset({"train", "val", "validation", "test"})


class CategoryEvaluator(Evaluator):
    """Report image and pixel metrics per category, as the mean of categories (macro), and over all images (pooled).

    Works for every anomalib model and datamodule. The metrics over thresholds are computed on raw scores: before the
    post-processor normalizes and clamps them, which makes ties, and without torchmetrics' sigmoid. Image metrics are
    exact. Pixel metrics use bins narrower than 1/2048 of the score, which makes memory independent of the number of
    images: less than a megabyte for a category, and some milliseconds for an image of 256×256 pixels. A warning tells
    if that can move pixel AUROC by more than 0.001; AP and F1max then move by a few times as much. ``image_F1Score``
    and ``pixel_F1Score`` are taken at the threshold that the model really uses.

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

    Attributes:
        results: Results of the last test: rows are categories, ``"macro"`` and ``"pooled"``; columns ``normal`` and
            ``anomalous``, the numbers of images, and metrics as ``image_AUROC``; NaN where not evaluable.
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
        self.results = DataFrame()
        self._metrics: defaultdict[str, CategoryMetrics] = defaultdict(partial(CategoryMetrics, aupimo))
        self._category_by_path: dict[str, str] = {}
        self._default_category = "all"
        self._device = torch.device(
            "cpu"
        )  # where processes put their metrics together: GPUs send their own memory only
        self._raw_scores = LambdaCallback(on_test_batch_end=self._collect_scores)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier results, and place a callback before the post-processor, which sees raw scores."""
        self.results = DataFrame()
        self._metrics.clear()
        datamodule = getattr(trainer, "datamodule", None)
        self._category_by_path = getattr(datamodule, "category_by_path", {})
        self._default_category = getattr(datamodule, "category", None) or "all"
        self._device = pl_module.device if trainer.world_size > 1 else torch.device("cpu")
        if self._raw_scores not in trainer.callbacks:  # type: ignore[attr-defined]  # it is after a test that failed
            trainer.callbacks = [self._raw_scores, *trainer.callbacks]  # type: ignore[attr-defined]

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
        if trainer is None:  # then no callback has seen the batch
            self._collect_scores(trainer, pl_module, outputs, batch)
        for category, index in self._by_category(batch).items():
            metrics = self._metrics[category]
            if batch.pred_label is not None and batch.gt_label is not None:
                metrics.image_decisions.update(batch.pred_label[index].bool().cpu(), batch.gt_label[index].bool().cpu())
            if batch.pred_mask is not None and batch.gt_mask is not None:
                metrics.pixel_decisions.update(batch.pred_mask[index].bool().cpu(), batch.gt_mask[index].bool().cpu())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log, print and write the results, and remove the callback."""
        super().on_test_epoch_end(trainer, pl_module)
        others = [callback for callback in trainer.callbacks if callback is not self._raw_scores]  # type: ignore[attr-defined]
        trainer.callbacks = others  # type: ignore[attr-defined]  # a new list, as Lightning is walking through the old one
        self.results = self.compute()
        self._metrics.clear()
        if self.results.empty:
            return
        for name, value in self.results.loc[POOLED, ANOMALIB_NAMES].dropna().items():
            pl_module.log(name, value, sync_dist=trainer.world_size > 1)  # equal in all processes
            if trainer.barebones:  # logging is off; anomalib's evaluator sets these itself, too
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
        if trainer.is_global_zero:
            for trainer_logger in trainer.loggers:
                trainer_logger.log_metrics(to_scalars(self.results), step=trainer.global_step)
            print_results(self.results)
            save_results(self.results, Path(trainer.default_root_dir))

    def compute(self) -> DataFrame:
        """Compute the results over all processes, each of which has to call this; empty if nothing was collected."""
        rows, pooled = {}, CategoryMetrics(self.aupimo).to(self._device)
        for category in _in_all_processes(self._metrics):
            metrics = self._metrics[category].to(self._device)
            result = metrics.compute()
            rows[category] = result.row
            pooled.merge(metrics, pixels=result.has_masks)
            if result.binning_error > MAX_BINNING_ERROR:
                rank_zero_warn(
                    f"Pixel AUROC of {category} may be off by up to {result.binning_error:.3f}, AP and F1max by a few "
                    "times as much, because many values of its anomaly maps are (nearly) equal: they saturate, or lie "
                    "far from zero in a narrow range."
                )
        return to_frame(rows, pooled.compute().row) if rows else DataFrame()

    def _collect_scores(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: ImageBatch, *_: int
    ) -> None:
        del trainer, pl_module, outputs
        image_scores = _image_scores(batch)
        for category, index in self._by_category(batch).items():
            metrics = self._metrics[category]
            if image_scores is not None and batch.gt_label is not None:
                metrics.image_scores.update(image_scores[index], batch.gt_label[index])
            if batch.anomaly_map is not None and batch.gt_mask is not None:
                metrics.update_pixel_scores(batch.anomaly_map[index], batch.gt_mask[index])

    def _by_category(self, batch: ImageBatch) -> dict[str, list[int]]:
        members: dict[str, list[int]] = {}
        for index, path in enumerate(batch.image_path or [""] * batch.batch_size):
            category = self._category_by_path.get(path) or category_of_path(path) or self._default_category
            category = f"{category}_" if category in {MACRO, POOLED} else category
            members.setdefault(category, []).append(index)
        return members


def category_of_path(path: str) -> str | None:
    """Read the category from a path in MVTec layout; None if the path has another layout.

    Example:
        >>> category_of_path("datasets/MVTecAD/bottle/test/good/000.png")
        'bottle'
    """
    parts = PurePath(path).parts
    return parts[-4] if len(parts) >= 4 and parts[-3] in SPLIT_FOLDERS else None


def _image_scores(batch: ImageBatch) -> Tensor | None:
    scores = batch.pred_score if batch.pred_score is None else batch.pred_score.flatten()
    if scores is None and batch.anomaly_map is not None:
        scores = batch.anomaly_map.flatten(1).amax(dim=1)  # as anomalib's post-processor does
    if scores is not None and scores.isnan().any():
        paths = [path for path, score in zip(batch.image_path or [], scores.tolist(), strict=False) if score != score]
        names = first_names(paths) or "an image"
        logger.warning("The model gave NaN as score, which no threshold flags, for %s", names)
    return scores


def _in_all_processes(names: Iterable[str]) -> list[str]:
    """Sort the names that any process has, so that all put their metrics together in the same order."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sorted(names)
    gathered: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, list(names))
    return sorted({name for process in gathered for name in process})
