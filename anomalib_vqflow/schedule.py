# SPDX-License-Identifier: Apache-2.0
"""How the learning rate changes over a training."""

import math


class WarmupSchedule:
    """Factor of the learning rate that rises linearly to 1, then stays there or falls to 0 along half a cosine.

    A class and not a function, so that torch keeps its numbers in the checkpoint: a resumed training goes on with the
    schedule that it began with, even if ``max_epochs`` was raised since.

    Args:
        warmup_steps: Optimizer steps of the rise.
        total_steps: Optimizer steps until 0; None to stay at 1.

    Example:
        >>> [WarmupSchedule(warmup_steps=4)(step) for step in (0, 1, 3, 9)]
        [0.25, 0.5, 1.0, 1.0]
        >>> [round(WarmupSchedule(warmup_steps=2, total_steps=6)(step), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    def __init__(self, warmup_steps: int, total_steps: int | None = None) -> None:
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: int) -> float:
        """Get the factor of a step, counted from 0."""
        if self.total_steps is None or step < self.warmup_steps:
            return min((step + 1) / self.warmup_steps, 1.0)
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
