# SPDX-License-Identifier: Apache-2.0
"""What is fitted to the training images beside the gradient: the whitening before it, the calibration after it."""

from collections.abc import Iterator, Sized
from typing import cast

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric

from .batches import BatchMixin
from .distributed import num_processes, sum_over_processes
from .features import Features
from .loss import LossTerms
from .post_processor import SeparatingPostProcessor
from .randomness import own_random_states
from .torch_model import VQFlowModel

NUM_FIT_IMAGES = 1024
"""A thousand images are enough for a covariance of a few hundred channels and for calibration, and cost little."""
FIT_IMAGES_PER_CONCEPT = 32
"""With many products a thousand are few of each, so there are this many for each concept that there may be."""


class FittingMixin(BatchMixin):
    """Fit whitening and calibration to the training images at the right moments of a training."""

    model: VQFlowModel
    pre_processor: nn.Module | None
    post_processor: nn.Module | None
    evaluator: nn.Module | None
    product_counts: dict[str, list[int]] | None = None  # training images, or tiles, by concept; for information only
    _complete_step = -1  # of the trainer, at which calibration and thresholds were set

    def prepare(self, images: Tensor) -> Tensor:
        """Turn images as a dataset gives them into what the torch model takes, as training does.

        Args:
            images: Images of shape ``(B, 3, H, W)`` in [0, 1], on any device.

        Returns:
            Images after the pre-processor's transform, on the model's device and of its type.
        """
        images = images.to(self.device)
        if isinstance(self.pre_processor, PreProcessor) and self.pre_processor.transform is not None:
            images = self.pre_processor.transform(images)
        return images.to(self.dtype)

    def on_fit_start(self) -> None:
        """Train in training mode, also a model that was loaded, which predicts.

        Raises:
            ValueError: If products were added to the model without training.
        """
        super().on_fit_start()
        if self.model.concept.regions.num_added:
            msg = (
                "Products were added to this model without training, by what its weights make of them, which must not "
                "change. Train the model of before with the images of all products."
            )
            raise ValueError(msg)
        self.train()

    def on_train_start(self) -> None:
        """Fit the whitening if there is one, after what :class:`.CheckpointMixin` restores."""
        super().on_train_start()
        self.forget_()  # if it is resumed within an epoch
        if self.model.needs_whitening:
            self.model.fit_whitening_(self._some_features())

    def on_train_epoch_start(self) -> None:
        """Forget calibration and thresholds, which were those of earlier weights."""
        super().on_train_epoch_start()
        self.forget_()

    def forget_(self) -> None:
        """Forget calibration, thresholds, and what a validation that was interrupted has collected."""
        self._complete_step = -1
        self.model.anomaly_map_generator.calibration.reset_()
        if isinstance(self.post_processor, SeparatingPostProcessor):
            self.post_processor.reset_()
        for part in (self.post_processor, self.evaluator):
            for metric in part.modules() if isinstance(part, nn.Module) else ():
                if isinstance(metric, Metric):
                    metric.reset()

    def on_validation_start(self) -> None:
        """Calibrate the scores, on which validation then sets the threshold."""
        super().on_validation_start()
        if self._is_fitting:
            self._calibrate()

    def on_validation_epoch_end(self) -> None:
        """Note that calibration and thresholds, which the post-processor has just set, are those of the weights."""
        super().on_validation_epoch_end()
        if self._is_fitting:
            self._complete_step = self.trainer.global_step

    @property
    def is_complete(self) -> bool:
        """Whether calibration and thresholds are those of the weights as they are now; to be asked in a training."""
        return self._complete_step == self.trainer.global_step

    def complete_(self) -> None:
        """Complete a training whose validation, if any, is done: what it did not set is fitted to training images."""
        self.eval()
        if not self.is_complete:
            self._calibrate()
            self._complete_step = self.trainer.global_step
        post = self.post_processor
        if isinstance(post, SeparatingPostProcessor) and post.enable_thresholding and not any(post.known):
            rank_zero_warn(
                "There are no validation images with labels, so thresholds are set by training images, whose scores "
                "are too low: expect more false alarms than it says below. Let the datamodule hold images back, such "
                "as by `val_split_mode: from_train`."
            )
            self._set_thresholds_by_training_images(post)
        self.train()

    @torch.no_grad()
    def _set_thresholds_by_training_images(self, post: SeparatingPostProcessor) -> None:
        for features in self._some_features():
            count = len(features.semantic) // self.model.num_tiles
            images = torch.zeros(1, device=self.device).expand(count, 3, *self.model.input_size)
            prediction = self.model(images, features)
            batch = ImageBatch(
                image=images,
                pred_score=prediction.pred_score,
                anomaly_map=prediction.anomaly_map,
                gt_label=torch.zeros(count, dtype=torch.bool),
            )
            batch.concept = prediction.concept  # type: ignore[attr-defined]  # no field of anomalib's batches
            post.on_validation_batch_end(self.trainer, self, batch)
        post.on_validation_epoch_end(self.trainer, self)

    def _calibrate(self) -> None:
        """Fit the calibration to training images, and count the concepts of their products, which exports tell."""
        paths: list[str] = []
        concepts = self.model.fit_calibration_(self._some_features(paths)).tolist()
        known = getattr(getattr(self.trainer, "datamodule", None), "category_by_path", {})
        products = {product: row for row, product in enumerate(dict.fromkeys(known.values()))}
        counts = torch.zeros(len(products), self.model.concept.codebook.num_codes, dtype=torch.long)
        for index, concept in enumerate(concepts):  # none, if the map is relative
            if (product := known.get(paths[index // self.model.num_tiles])) is not None:
                counts[products[product], concept] += 1
        counts = sum_over_processes(counts.to(self.device))
        self.product_counts = {product: counts[row].tolist() for product, row in products.items() if counts[row].any()}

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking

    def _some_features(self, paths: list[str] | None = None) -> Iterator[Features]:
        """Yield what the backbone sees in some of the training images, evenly drawn, and add their paths.

        Of several processes, each takes its share.
        """
        loader = cast("DataLoader", self.trainer.train_dataloader)
        dataset = cast("Sized", loader.dataset)
        wanted = max(NUM_FIT_IMAGES, FIT_IMAGES_PER_CONCEPT * self.model.concept.codebook.num_codes)
        chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), wanted)).round().astype(int).tolist()
        if len(chosen) < num_processes():
            msg = f"Expected at least one training image for each of {num_processes()} processes, got {len(chosen)}."
            raise ValueError(msg)
        chosen = chosen[self.trainer.global_rank :: num_processes()]
        # Augmentations and loaders draw from the generators: the training must not notice, and what is fitted must not
        # depend on when it was interrupted.
        with own_random_states(self.trainer.global_step):
            for batch in DataLoader(
                Subset(loader.dataset, chosen),
                batch_size=loader.batch_size or 1,
                num_workers=loader.num_workers,
                collate_fn=loader.collate_fn,
            ):
                if paths is not None:
                    paths.extend(map(str, batch.image_path or ()))
                batch = self.transfer_batch_to_device(batch, self.device, 0)
                features = self._known_features(batch)
                yield self.model.see(self.prepare(batch.image)) if features is None else features

    def _log_training(self, terms: LossTerms, num_dims: int, batch_size: int) -> None:
        """Log the loss per latent dimension, its parts, how evenly the codes are used, and how many are."""
        loss = terms.total.detach() / num_dims
        several = num_processes() > 1
        self.log(
            "train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=batch_size, sync_dist=several
        )
        parts = {f"train_{name}": getattr(terms, name) for name in ("nll", "log_det", "commitment")}
        self.log_dict(parts, batch_size=batch_size, sync_dist=several)
        self.log_dict(self.model.codebook_statistics(), batch_size=batch_size)  # equal in all processes
