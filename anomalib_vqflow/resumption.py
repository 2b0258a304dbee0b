# SPDX-License-Identifier: Apache-2.0
"""A training that is resumed, wherever it was interrupted, goes on as if it had not been."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from .randomness import random_states, restore_random_states

RESUMPTION_KEY = "vqflow_resumption"


class Interruption(NamedTuple):
    """Where a training was interrupted.

    Attributes:
        epoch_states: Random states in which the data of the epoch that goes on, or comes next, were begun.
        batches: How many batches of it are done.
        states: Random states at the interruption.
    """

    epoch_states: Mapping[str, Any]
    batches: int
    states: Mapping[str, Any]


class ResumptionMixin(LightningModule):
    """Save what the order of images and all that is drawn depend on, and begin there when a training is resumed."""

    _complete_step: int
    _epoch_states: Mapping[str, Any] | None = None
    _interruption: Interruption | None = None

    @property
    def _resumes(self) -> bool:
        """Whether a checkpoint that is loaded now is to be trained on."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def configure_model(self) -> None:
        """Note the random states, as Lightning soon begins the data of the first epoch, when it asks for optimizers."""
        super().configure_model()
        self._epoch_states = random_states()

    def on_fit_start(self) -> None:
        """If a training is resumed, be ready for one that has no step left: Lightning has no hook for that."""
        super().on_fit_start()
        if self._interruption is not None:
            fit_loop = self.trainer.fit_loop
            fit_loop.run = partial(self._run, fit_loop)  # type: ignore[method-assign]

    def _run(self, fit_loop: Any) -> None:  # noqa: ANN401  # mypy does not know what Lightning gives its loops
        """Run the loop; end a training as usual that was interrupted between its last step and its completion."""
        del fit_loop.run  # the class's own is left
        fit_loop.run()
        has_data = fit_loop._data_fetcher is not None  # noqa: SLF001
        if self._interruption is not None and has_data and self._complete_step != self.trainer.global_step:
            fit_loop.on_run_start()
            fit_loop.on_run_end()
        self._interruption = None

    def on_train_epoch_end(self) -> None:
        """Note them for the next epoch."""
        super().on_train_epoch_end()
        self._epoch_states = random_states()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random states, so that a resumed training is the same as an uninterrupted one.

        Args:
            checkpoint: The checkpoint.
        """
        super().on_save_checkpoint(checkpoint)
        if self._trainer is None:  # a trainer that saves a model that it was only shown
            return
        now, fit_loop = random_states(), cast("Any", self.trainer.fit_loop)
        progress = fit_loop.epoch_progress.current
        is_in_epoch = progress.processed < progress.started
        checkpoint[RESUMPTION_KEY] = {
            "epoch_states": self._epoch_states if is_in_epoch else now,
            "batches": fit_loop.epoch_loop.batch_progress.current.processed if is_in_epoch else 0,
            "states": now,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """If a training is resumed, take the random states, and begin a validation that was interrupted anew.

        Args:
            checkpoint: The checkpoint.
        """
        super().on_load_checkpoint(checkpoint)
        if not self._resumes or RESUMPTION_KEY not in checkpoint:
            return
        self._interruption = Interruption(**checkpoint[RESUMPTION_KEY])
        # Lightning would pass over the batches that are done, whose scores nobody has any more.
        validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        for counts in (validation["current"], validation["total"]):
            counts.update(dict.fromkeys(counts, 0))

    def on_train_start(self) -> None:
        """Begin the data of the epoch anew, in its order, and pass over the batches that are done."""
        super().on_train_start()
        if self._interruption is not None:
            self._begin_where_interrupted(self._interruption)
            self._interruption = None
        if self.trainer.global_rank > 0:  # Lightning gives all processes the same seed
            seeds = np.random.SeedSequence([torch.initial_seed(), self.trainer.global_rank, self.trainer.global_step])
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def _begin_where_interrupted(self, interruption: Interruption) -> None:
        fit_loop = cast("Any", self.trainer.fit_loop)
        self._epoch_states = interruption.epoch_states
        restore_random_states(interruption.epoch_states)
        fetcher = fit_loop._data_fetcher  # noqa: SLF001
        for loader in fetcher.combined_loader.flattened:  # Lightning began it before it told samplers the epoch
            _set_sampler_epoch(loader, fit_loop.epoch_progress.current.processed)
        iter(fetcher)
        if interruption.batches:
            for _ in range(interruption.batches):
                next(fetcher.iterator)  # the fetcher itself is counted by Lightning
            restore_random_states(interruption.states)
