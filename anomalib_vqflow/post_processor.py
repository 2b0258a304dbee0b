# SPDX-License-Identifier: Apache-2.0
"""Thresholds that keep a false-alarm rate or have the best F1 score, and no label without a threshold."""

from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from .buffers import resize_buffers_
from .conformal import concept_thresholds, conformal_limit, images_needed
from .distributed import sum_over_processes
from .thresholds import NormalScores, SeparatingThreshold

USUAL_RATE = 0.01
"""False-alarm rate where none was asked for, and validation has no anomalies to set a threshold by."""


class SeparatingPostProcessor(PostProcessor):
    """anomalib's post-processor with thresholds between scores, or by a false-alarm rate, or none and then no labels.

    With a false-alarm rate, thresholds are set by normal images alone (:func:`.conformal_limit`): at most this share of
    new normal images is called anomalous, if they are exchangeable with those of the validation. For pixels it is the
    share of normal images in which any pixel is, because the pixels of an image are not exchangeable with each other.
    Concepts with enough images have thresholds of their own.

    Without a rate, thresholds are those of the best F1 score on the validation images, and where these have no
    anomalies (or no masks, for pixels), those of a rate of 1 %.

    Where there is no threshold, scores and maps stay as the model gives them, and ``pred_label`` and ``pred_mask`` are
    None; anomalib's post-processor would hold them against 0.5.

    Args:
        enable_normalization: As in anomalib's ``PostProcessor``, as are the next four.
        enable_thresholding: Whether to tell labels and masks.
        enable_threshold_matching: Whether images and pixels share a threshold where only one of both is known.
        image_sensitivity: 0 to 1; more makes more images anomalous.
        pixel_sensitivity: The same for pixels.
        false_alarm_rate: Share of normal images that may be called anomalous, in (0, 1); None for the best F1 score.
        pixel_false_alarm_rate: Share of normal images in which a pixel may be called anomalous; None for the former.
        per_concept: Whether concepts with enough normal images have thresholds of their own under a rate.

    Raises:
        ValueError: If a rate is not between 0 and 1.

    Example:
        >>> from anomalib_vqflow import VQFlow
        >>> from anomalib_vqflow.post_processor import SeparatingPostProcessor
        >>> model = VQFlow(pre_trained=False, post_processor=SeparatingPostProcessor(false_alarm_rate=0.05))
    """

    image_offsets: Tensor  # (K,), or empty
    pixel_offsets: Tensor  # (K,), or empty
    normal_scores: Tensor  # (n, 3): score, highest value of the map, concept

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        false_alarm_rate: float | None = None,
        pixel_false_alarm_rate: float | None = None,
        per_concept: bool = True,
    ) -> None:
        super().__init__(
            enable_normalization, enable_thresholding, enable_threshold_matching, image_sensitivity, pixel_sensitivity
        )
        _check_rates(false_alarm_rate=false_alarm_rate, pixel_false_alarm_rate=pixel_false_alarm_rate)
        self.false_alarm_rate = false_alarm_rate
        self.pixel_false_alarm_rate = pixel_false_alarm_rate
        self.per_concept = per_concept
        self.num_concepts = 0  # of the model, if it has any
        self._image_threshold_metric = SeparatingThreshold(fields=["pred_score", "gt_label"], strict=False)
        self._pixel_threshold_metric = SeparatingThreshold(fields=["anomaly_map", "gt_mask"], strict=False)
        self._normal_metric = NormalScores()
        self.register_buffer("image_offsets", torch.zeros(0))
        self.register_buffer("pixel_offsets", torch.zeros(0))
        self.register_buffer("normal_scores", torch.zeros(0, 3))
        self._known = (False, False)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (
            *super()._checkpoint_config_keys,
            "false_alarm_rate",
            "pixel_false_alarm_rate",
            "per_concept",
            "num_concepts",
        )

    def reset_(self) -> None:
        """Forget thresholds and ranges, because the weights whose scores set them change."""
        for buffer in self.buffers(recurse=False):
            buffer.fill_(torch.nan)
        for name in ("image_offsets", "pixel_offsets", "normal_scores"):
            setattr(self, name, getattr(self, name)[:0])

    @property
    def known(self) -> tuple[bool, bool]:
        """Whether there is a threshold for images, and one for pixels.

        While the model is exported, as it was before: values of tensors are not known then.
        """
        if not torch.compiler.is_exporting():
            self._known = (not self.image_threshold.isnan().item(), not self.pixel_threshold.isnan().item())
        return self._known

    def on_validation_batch_end(  # type: ignore[override]  # as anomalib's
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object, **kwargs: object
    ) -> None:
        """Collect scores.

        Args:
            trainer: The trainer.
            pl_module: The model.
            outputs: Predictions of a batch, with ground truth.
            args: Unused.
            kwargs: Unused.
        """
        if self.enable_thresholding:
            self._normal_metric.update(outputs)
        if self.false_alarm_rate is None:
            super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        elif self.enable_normalization:  # without what the best F1 score needs, which keeps every pixel
            self._image_min_max_metric.update(outputs)
            self._pixel_min_max_metric.update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set thresholds and ranges.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        metrics = (self._image_threshold_metric, self._pixel_threshold_metric)
        has = torch.tensor([any(1 in labels for labels in metric.target) for metric in metrics])
        has_anomalies = sum_over_processes(has.to(self.image_threshold.device, torch.long)).bool().tolist()
        super().on_validation_epoch_end(trainer, pl_module)
        if not self._normal_metric.update_called:
            return
        self.normal_scores = self._normal_metric.compute().to(self.normal_scores)
        self._normal_metric.reset()
        self.num_concepts = pl_module.hparams.get("num_concepts", 0)
        self.image_offsets, self.pixel_offsets = self.image_offsets[:0], self.pixel_offsets[:0]
        if len(self.normal_scores):
            by_rate = [self.false_alarm_rate is not None or not has for has in has_anomalies]
            self._keep_rates(*by_rate)

    def set_false_alarm_rate(self, image: float, pixel: float | None = None) -> None:
        """Set thresholds anew by the normal images of the validation, without another training.

        Args:
            image: Share of normal images that may be called anomalous, in (0, 1).
            pixel: Share of normal images in which a pixel may be; None for the same.

        Raises:
            ValueError: If a rate is not between 0 and 1, or there were no normal images.
        """
        _check_rates(image=image, pixel=pixel)
        if not len(self.normal_scores):
            msg = "There are no scores of normal validation images to set a threshold by; train with some."
            raise ValueError(msg)
        self.false_alarm_rate, self.pixel_false_alarm_rate = image, pixel
        self._keep_rates()

    def _keep_rates(self, for_images: bool = True, for_pixels: bool = True) -> None:
        """Set thresholds by rates, and tell which rates they keep."""
        image_rate = self.false_alarm_rate or USUAL_RATE
        rates = (image_rate, self.pixel_false_alarm_rate or image_rate)
        scores, peaks, concepts = self.normal_scores.unbind(1)
        if for_images:
            self.image_offsets = self._keep_rate(self._image_threshold, scores, concepts, rates[0], "image")
        if for_pixels:
            self.pixel_offsets = self._keep_rate(self._pixel_threshold, peaks, concepts, rates[1], "pixel")

    def _keep_rate(self, threshold: Tensor, scores: Tensor, concepts: Tensor, rate: float, kind: str) -> Tensor:
        """Set the common threshold, and give what those of the concepts differ from it by."""
        known = scores.float().numpy(force=True)
        limit = conformal_limit(known, rate)
        threshold.fill_(float(limit.threshold))
        found = f"The {kind} threshold is set by {len(scores)} normal validation images"
        if limit.rate > rate + 1e-9:
            rank_zero_warn(
                f"{found}: they promise that at most {limit.rate:.1%} of new normal images are anomalous by it, not "
                f"{rate:.1%}, for which {images_needed(rate)} are needed. Add some, or ask for a higher rate."
            )
        else:
            rank_zero_info(f"{found}; at most {limit.rate:.1%} of new ones like them are anomalous by it.")
        if not (self.per_concept and self.num_concepts):
            return scores[:0]
        own = concept_thresholds(known, concepts.long().numpy(force=True), self.num_concepts, rate)
        return torch.from_numpy(own - limit.threshold).to(scores)

    def append_concept_(self) -> None:
        """Give a concept that is added to the model the common thresholds."""
        self.num_concepts += 1
        self.image_offsets = F.pad(self.image_offsets, (0, len(self.image_offsets) > 0))
        self.pixel_offsets = F.pad(self.pixel_offsets, (0, len(self.pixel_offsets) > 0))

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalize scores and maps, and hold them against the thresholds, where there are any.

        Args:
            predictions: Raw scores and maps.

        Returns:
            Scores and maps in [0, 1], and labels and masks, or None.
        """
        concept = getattr(predictions, "concept", None)
        if concept is not None:
            predictions = predictions._replace(
                pred_score=_shifted(predictions.pred_score, self.image_offsets, concept),
                anomaly_map=_shifted(predictions.anomaly_map, self.pixel_offsets, concept),
            )
        found = super().forward(predictions)
        has_image, has_pixel = self.known
        # What is not known leaves no trace in an export: a quantized one with clamps of NaN is no model to OpenVINO.
        if not has_image:
            score = found.pred_score if predictions.pred_score is None else predictions.pred_score
            found = found._replace(pred_score=score, pred_label=None)
        return found if has_pixel else found._replace(anomaly_map=predictions.anomaly_map, pred_mask=None)

    def post_process_batch(self, batch: Batch) -> None:
        """Normalize scores and maps of a batch, and add labels and masks.

        Args:
            batch: Raw predictions.
        """
        concept = getattr(batch, "concept", None)  # an attribute of our model's batches
        batch.pred_score = _shifted(batch.pred_score, self.image_offsets, concept)
        batch.anomaly_map = _shifted(batch.anomaly_map, self.pixel_offsets, concept)
        super().post_process_batch(batch)

    def threshold_batch(self, batch: Batch) -> None:
        """Add labels and masks to a batch, where there are thresholds.

        Args:
            batch: Predictions after normalization.
        """
        given = batch.pred_label, batch.pred_mask
        super().threshold_batch(batch)
        has_image, has_pixel = self.known
        batch.pred_label = batch.pred_label if has_image else given[0]
        batch.pred_mask = batch.pred_mask if has_pixel else given[1]

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        normalized = PostProcessor._normalize(preds, norm_min, norm_max, threshold)  # noqa: SLF001
        # anomalib would take the middle of the range for the threshold.
        if preds is None or normalized is None:
            return None
        return torch.where(threshold.isnan(), preds, normalized)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        resize_buffers_(self, ("image_offsets", "pixel_offsets", "normal_scores"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shifted(scores: Tensor | None, offsets: Tensor, concept: Tensor | None) -> Tensor | None:
    """Shift scores or maps of each concept to where its threshold is the common one."""
    if scores is None or concept is None or not offsets.shape[0]:
        return scores
    return scores - offsets[concept].view(-1, *[1] * (scores.ndim - 1))


def _check_rates(**rates: float | None) -> None:
    for name, rate in rates.items():
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < 1):
            msg = f"Expected `{name}` above 0 and below 1, got {rate!r}."
            raise ValueError(msg)
