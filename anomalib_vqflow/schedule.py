# SPDX-License-Identifier: Apache-2.0
"""How long a training is and how gradients are clipped where the user chose nothing, and its learning rate."""

import logging
import math
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 60
GRADIENT_CLIP_NORM = 2.0
LIGHTNING_DEFAULT_EPOCHS = 1000
LIGHTNING_DEFAULT_SANITY_STEPS = 2


class WarmupSchedule:
    """Factor of the learning rate that rises linearly to 1, then stays there or falls to 0 along half a cosine.

    A class and not a function, so that torch keeps its numbers in the checkpoint: a resumed training goes on with the
    schedule that it began with, unless its length was changed since (:meth:`follow_`).

    Args:
        warmup_steps: Optimizer steps of the rise.
        total_steps: Optimizer steps until 0; None to stay at 1.

    Example:
        >>> [WarmupSchedule(warmup_steps=4)(step) for step in (0, 1, 3, 9)]
        [0.25, 0.5, 1.0, 1.0]
        >>> [round(WarmupSchedule(warmup_steps=2, total_steps=6)(step), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    first_step = 0  # at which it begins
    planned_steps: int | None = None  # of the whole training, if it is not the one that it was made for

    def __init__(self, warmup_steps: int, total_steps: int | None = None) -> None:
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def follow_(self, planned_steps: int, step: int, steps_left: int) -> None:
        """Let a factor that falls reach 0 at the end of a resumed training, if that is another one than before.

        Where a training goes on that had ended, the factor rises and falls once more, with a warm-up of the same share.
        Otherwise the fall is stretched or shortened. A factor that stays at 1 has no end.

        Args:
            planned_steps: Optimizer steps of the whole training, as it is planned now.
            step: The next one, counted from 0.
            steps_left: How many come.

        Example:
            >>> schedule = WarmupSchedule(warmup_steps=1, total_steps=4)
            >>> schedule.follow_(planned_steps=8, step=4, steps_left=4)
            >>> [round(schedule(step), 2) for step in range(4, 9)]
            [1.0, 1.0, 0.75, 0.25, 0.0]
        """
        if self.total_steps is None or planned_steps == (self.planned_steps or self.total_steps):
            return
        done, self.planned_steps = step - self.first_step, planned_steps
        if done < self.total_steps:
            self.total_steps = done + steps_left
        else:
            self.warmup_steps = max(round(self.warmup_steps / self.total_steps * steps_left), 1)
            self.first_step, self.total_steps = step, steps_left

    def __call__(self, step: int) -> float:
        """Get the factor of a step, counted from 0."""
        step -= self.first_step
        if self.total_steps is None or step < self.warmup_steps:
            return min((step + 1) / self.warmup_steps, 1.0)
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class TrainingDefaultsMixin(LightningModule):
    """Training as published where the user of the trainer chose nothing."""

    model: nn.Module
    lr: float
    warmup_ratio: float
    lr_schedule: str
    _epochs_unset = False

    @property
    def trainer(self) -> Trainer:
        """The trainer that this model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Lightning attaches the trainer before it turns an unset max_epochs into 1,000.
        self._epochs_unset = trainer is not None and trainer.max_epochs is None
        super(TrainingDefaultsMixin, type(self)).trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Replace Lightning's defaults by ours where the user chose nothing.

        Without ``max_epochs``, ``max_steps`` or ``max_time``, 60 epochs are trained, as published, instead of
        Lightning's 1,000. Validation is not tried before training.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If the weights are to be in half precision, or split over devices.
        """
        if self.trainer.precision in {"16-true", "bf16-true"}:
            msg = (
                f"VQ-Flow cannot run in precision {self.trainer.precision}, because half precision cannot hold the "
                "running means of its codebooks. Use 'bf16-mixed', '16-mixed' or 32."
            )
            raise ValueError(msg)
        if isinstance(self.trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            msg = (
                f"VQ-Flow cannot run under {type(self.trainer.strategy).__name__}, which splits weights over devices. "
                "It is small enough to be whole on each: use strategy 'ddp'."
            )
            raise ValueError(msg)  # noqa: TRY004  (the user gave a name)
        if stage != "fit":
            return
        if self._epochs_unset and self.trainer.max_epochs == LIGHTNING_DEFAULT_EPOCHS:
            logger.warning(
                "max_epochs was not set: training for %d epochs, as published, and not for %d, as Lightning says.",
                DEFAULT_EPOCHS,
                LIGHTNING_DEFAULT_EPOCHS,
            )
            self.trainer.fit_loop.max_epochs = DEFAULT_EPOCHS
        if self.trainer.num_sanity_val_steps == LIGHTNING_DEFAULT_SANITY_STEPS:
            self.trainer.num_sanity_val_steps = 0

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """None, because anomalib lets them override the user's; see :meth:`setup` for our defaults."""
        return {}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Set up Adam with a linear warm-up, then the constant learning rate as published, or a falling one.

        The warm-up is a share of the training's length at its start: one that is resumed before its end keeps it.
        """
        optimizer = torch.optim.Adam((p for p in self.model.parameters() if p.requires_grad), lr=self.lr)
        total_steps = self.num_training_steps()
        warmup_steps = max(round(self.warmup_ratio * total_steps), 1)
        schedule = WarmupSchedule(warmup_steps, total_steps if self.lr_schedule == "cosine" else None)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let the learning rate follow a resumed training, if ``lr``, its length or its data were changed."""
        super().on_train_start()
        planned_steps = self.num_training_steps()
        for config in self.trainer.lr_scheduler_configs:
            scheduler, step = config.scheduler, config.scheduler.last_epoch
            for i, schedule in enumerate(getattr(scheduler, "lr_lambdas", ())):
                if isinstance(schedule, WarmupSchedule):  # not so where a model that derives from this one has its own
                    schedule.follow_(planned_steps, step, self._steps_left(planned_steps, step))
                    scheduler.base_lrs[i] = self.lr
                    scheduler.optimizer.param_groups[i]["lr"] = self.lr * schedule(step)

    def _steps_left(self, planned_steps: int, step: int) -> int:
        max_epochs, max_steps = self.trainer.max_epochs or -1, self.trainer.max_steps
        if planned_steps == max_steps or max_epochs == -1:
            return planned_steps - step
        fit_loop = cast("Any", self.trainer.fit_loop)  # mypy does not know the counts of its progress
        epochs_left = max_epochs - fit_loop.epoch_progress.current.processed
        return round(planned_steps * epochs_left / max_epochs)

    def num_training_steps(self) -> int:
        """Count the optimizer steps of the whole training; unlimited length is taken for 60 epochs."""
        num_steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(num_steps):
            self.trainer.fit_loop.setup_data()
            num_steps = DEFAULT_EPOCHS * self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return max(round(num_steps), 1)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients at norm 2, as published, unless the trainer's ``gradient_clip_val`` says otherwise; 0 is off.

        Args:
            optimizer: The optimizer.
            gradient_clip_val: The trainer's; None if the user set none.
            gradient_clip_algorithm: The trainer's.
        """
        chosen = GRADIENT_CLIP_NORM if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, gradient_clip_val=chosen, gradient_clip_algorithm=gradient_clip_algorithm)
