# SPDX-License-Identifier: Apache-2.0
"""However a training ends, its last epoch is calibrated, gets its thresholds, and is saved."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from .fitting import FittingMixin
from .randomness import own_random_states

TRAINING_METRICS = "train_"
"""What the names of the metrics begin with that are logged in training."""


class Completion(Callback):
    """Validate at the end of a training, if the last epoch is not validated yet, and save again.

    Validation only fits what turns scores into labels: calibration, thresholds, and the range of scores. It is needed
    for the weights that are kept, which are the last ones, so it is left out in between unless someone looks at it; see
    :func:`needs_validation`. An interrupted training (Ctrl-C, SIGTERM) is saved at once, as whoever interrupts it may
    soon end the process; then it is completed as well. It says what its checkpoint holds.
    """

    def __init__(self) -> None:
        self._limit_val_batches: int | float | None = None
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: FittingMixin) -> None:  # type: ignore[override]
        """Switch validation off until the end, if nobody needs it before.

        Args:
            trainer: The trainer, which has tried the validation if it was told to.
            pl_module: The model.
        """
        if not needs_validation(trainer, pl_module):
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def teardown(self, trainer: Trainer, pl_module: FittingMixin, stage: str) -> None:  # type: ignore[override]
        """Restore what a training that failed left switched off, and tell one that has not begun.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        del pl_module
        self._restore_validation(trainer)
        if stage == TrainerFn.FITTING and trainer.global_step == 0 and trainer.state.status == TrainerStatus.RUNNING:
            rank_zero_warn(
                "The training ended before its first step: the model is not trained, and no checkpoint was saved. See "
                "max_epochs, max_steps, max_time and limit_train_batches."
            )

    def on_train_end(self, trainer: Trainer, pl_module: FittingMixin) -> None:  # type: ignore[override]
        """Complete a training that came to its end, in whatever epoch.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        self._complete(trainer, pl_module)

    def on_exception(  # type: ignore[override]
        self, trainer: Trainer, pl_module: FittingMixin, exception: BaseException
    ) -> None:
        """Complete a training that was interrupted, and say what the checkpoint of one that failed holds.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What ended the training.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        where = f"The training was stopped in epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
        interrupted = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if interrupted and trainer.world_size == 1 and trainer.global_step > 0:
            # Lightning would end the validation at once; a second signal still does.
            trainer._signal_connector.received_sigterm = False  # noqa: SLF001
            try:
                if not pl_module.is_complete:
                    _save_again(trainer)
                rank_zero_info(f"{where}; calibrating its scores and setting its thresholds.")
                self._complete(trainer, pl_module)
            except (Exception, SIGTERMException) as error:  # noqa: BLE001  (what ends the training is the interruption)
                rank_zero_warn(f"The interrupted training could not be completed: {error!r}")
        rank_zero_warn(f"{where}. {self._saved(trainer, pl_module)}")

    def on_save_checkpoint(  # type: ignore[override]
        self, trainer: Trainer, pl_module: FittingMixin, checkpoint: dict[str, Any]
    ) -> None:
        """Remember what was saved last.

        Args:
            trainer: The trainer.
            pl_module: The model.
            checkpoint: The checkpoint.
        """
        del pl_module, checkpoint
        self._saved_step = trainer.global_step

    def _complete(self, trainer: Trainer, pl_module: FittingMixin) -> None:
        self._restore_validation(trainer)
        if pl_module.is_complete or trainer.global_step == 0:
            return
        pl_module.forget_()  # what a validation that was interrupted has collected
        with own_random_states(trainer.global_step):  # a training that is resumed must not notice
            if trainer.enable_validation:
                trainer.validating = True
                with torch.no_grad():
                    trainer.fit_loop.epoch_loop.val_loop.run()
                trainer.training = True
            pl_module.complete_()
        _save_again(trainer)

    def _restore_validation(self, trainer: Trainer) -> None:
        if self._limit_val_batches is not None:
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    def _saved(self, trainer: Trainer, pl_module: FittingMixin) -> str:
        path = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not path or not self._saved_step:
            return "No checkpoint was saved."
        state = "calibrated" if pl_module.is_complete else "perhaps without calibration and thresholds"
        return f"{path} holds the weights of step {self._saved_step}, {state}; `fit` with it resumes."


def needs_validation(trainer: Trainer, pl_module: FittingMixin) -> bool:
    """Tell whether validation is needed before the end of a training.

    Args:
        trainer: The trainer.
        pl_module: The model.

    Returns:
        True if the trainer was given a schedule of validation, if the evaluator has metrics for it, if a checkpoint is
        chosen by a metric, or if another callback monitors one that is not logged in training.
    """
    if trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0:
        return True
    if getattr(pl_module.evaluator, "val_metrics", None):
        return True
    monitors = [
        (callback, str(callback.monitor))
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if getattr(callback, "monitor", None) is not None
    ]
    return any(
        isinstance(callback, ModelCheckpoint) or not monitor.startswith(TRAINING_METRICS)
        for callback, monitor in monitors
    )


def _save_again(trainer: Trainer) -> None:
    """Save where the callbacks for checkpoints saved, or would save, the last epoch."""
    progress = cast("Any", trainer.fit_loop.epoch_progress.current)
    is_between_epochs = progress.started == progress.processed == progress.completed
    progress.completed -= is_between_epochs  # as it was when the epoch was saved, so that the checkpoint resumes alike
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for path in _own_paths(callback):
                trainer.save_checkpoint(path, callback.save_weights_only)
    progress.completed += is_between_epochs


def _own_paths(callback: ModelCheckpoint) -> set[str]:
    """Tell where a callback saved in this training; one that is resumed also knows the paths of the one before."""
    folder = Path(str(callback.dirpath)).absolute()
    paths = {callback.best_model_path, callback.last_model_path} - {""}
    own = {path for path in paths if folder == Path(path).absolute().parent}
    if not own and callback.save_top_k:
        callback.best_model_path = callback.format_checkpoint_name({})
        own = {callback.best_model_path}
    return own
