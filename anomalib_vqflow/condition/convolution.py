# SPDX-License-Identifier: Apache-2.0
"""A 3×3 convolution of a map and a condition, which knows when the condition need not be multiplied."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .discrete import NUM_TAPS, Condition, DiscreteCondition, dense_condition
from .tables import ConditionConvolution, build_table

TABLE_DEVICES = {"cpu"}
"""Where sums of table rows are taken. CUDA has them, too, but they were never run there: ``tests/test_devices.py``."""
LOOK_UP_COST = 3
"""Multiplications of a cell, per output channel and tap, in the time of which its table rows are added up."""
OVERHEAD = 1e7, 8e7
"""Multiplications in the time of which a table is put together and used, without its own; the second with gradients.
[Measured on one core: 0.3 and 2 ms, at 40 million multiplications per ms.]"""
WORTH_A_NUMBER = 16
"""Multiplications of an exported model, per image, that are worth a number more in its file."""


class KeptTable(NamedTuple):
    """A table, and what it was made of."""

    table: Tensor  # (R, d)
    narrow: Tensor  # (d, C_x, 3, 3), kernel of the other channels
    sources: list[tuple[Tensor, int]]
    grid: tuple[int, int]

    def is_made_of(self, sources: Sequence[Tensor], grid: tuple[int, int]) -> bool:
        """Whether it was made of these tensors as they are now, for this grid."""
        return grid == self.grid and all(
            tensor.data_ptr() == source.data_ptr() and tensor.dtype == source.dtype and version == source._version  # noqa: SLF001
            for (tensor, version), source in zip(self.sources, sources, strict=True)
        )


class ConditionedConv2d(nn.Conv2d):
    r"""Convolve :math:`[x; c]` with a 3×3 kernel and zero padding, where the condition c may be discrete.

    The parameters are those of the plain convolution over all channels, and so is the result, up to rounding: a
    convolution is linear, so the part of a :class:`.DiscreteCondition` is a sum of rows of a table of its distinct
    vectors, each multiplied with the kernel once. In training the table is made anew in every step, in inference it is
    kept until its sources change, and in an export it is a constant. Where the plain convolution costs less, it is
    taken.

    Source: ours.

    Args:
        in_channels: Channels of x and of the condition together.
        out_channels: Channels of the result, d.

    Example:
        >>> import torch
        >>> conv = ConditionedConv2d(8 + 6, 10)
        >>> conv(torch.randn(2, 8, 4, 4), torch.randn(2, 6, 4, 4)).shape
        torch.Size([2, 10, 4, 4])
    """

    table: Tensor  # (R, d), only while frozen
    narrow: Tensor  # (d, C_x, 3, 3), only while frozen

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self._kept: KeptTable | None = None

    def forward(self, x: Tensor, condition: Condition) -> Tensor:  # type: ignore[override]  # takes two maps
        """Convolve.

        Args:
            x: Map of shape ``(B, C_x, h, w)``.
            condition: Condition with the remaining channels, on the same grid.

        Returns:
            Map of shape ``(B, d, h, w)``.
        """
        if not isinstance(condition, DiscreteCondition) or not self._takes_table(condition):
            return super().forward(torch.cat((x, dense_condition(condition)), dim=1))
        cells, narrow = self._look_up(condition)
        cells = cells.view(-1, *condition.grid, self.out_channels).permute(0, 3, 1, 2)
        if self.is_frozen:
            return F.conv2d(x, narrow, self.bias, padding=1) + cells
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), narrow, self.bias, padding=1).add_(cells)

    def _takes_table(self, condition: DiscreteCondition) -> bool:
        """Choose between the two forms: table or plain convolution."""
        if self.is_frozen:
            return True
        if torch.compiler.is_exporting() or condition.anchor.columns.device.type not in TABLE_DEVICES:
            return False
        return self._keeps_table(condition) or saves_work(condition, self.out_channels, self._learns(condition))

    def _look_up(self, condition: DiscreteCondition) -> tuple[Tensor, Tensor]:
        """Convolve the condition by table.

        Returns:
            Cells of shape ``(B · h · w, d)``, and the kernel of the other channels, ``(d, C_x, 3, 3)``.
        """
        if self.is_frozen:
            return self.table[condition.table_rows].sum(dim=1), self.narrow
        if self._keeps_table(condition):
            kept = self._keep(condition)
            return F.embedding_bag(condition.table_rows, kept.table, mode="sum"), kept.narrow
        prototypes, pattern = condition.concept.prototypes, condition.pattern
        cells, narrow = ConditionConvolution.apply(self.weight, prototypes, pattern, condition)
        return cells, narrow

    def _learns(self, condition: DiscreteCondition) -> bool:
        learning = self.weight.requires_grad or condition.concept.prototypes.requires_grad
        return torch.is_grad_enabled() and learning

    def _keeps_table(self, condition: DiscreteCondition) -> bool:
        """Whether a table is worth keeping for the next call."""
        return condition.concept.lasting and not self.training and not self._learns(condition)

    def train(self, mode: bool = True) -> "ConditionedConv2d":
        """Set the mode, and drop the table."""
        self._kept = None
        return super().train(mode)

    @property
    def kept_grid(self) -> tuple[int, int] | None:
        """Grid of the condition for which there is a table."""
        return None if self._kept is None else self._kept.grid

    @torch.compiler.disable  # a compiled model, too, looks whether its sources changed
    def _keep(self, condition: DiscreteCondition) -> KeptTable:
        """Return the kept table, made anew where one of its sources changed."""
        sources = [self.weight, condition.concept.prototypes]
        if condition.patterns is not None:
            sources.append(condition.patterns.codebook)
        if self._kept is None or not self._kept.is_made_of(sources, condition.grid):
            narrow = self.weight.shape[1] - condition.shape[1]
            # What is kept has to serve outside of the caller's modes, too.
            with (
                torch.inference_mode(mode=False),
                torch.no_grad(),
                torch.autocast(self.weight.device.type, enabled=False),
            ):
                table = build_table(self.weight[:, narrow:], condition)
                kernel = self.weight[:, :narrow].contiguous(memory_format=torch.channels_last)
                self._kept = KeptTable(table, kernel, [_version(t) for t in sources], condition.grid)
        return self._kept

    @property
    def is_frozen(self) -> bool:
        """Whether the table is fixed; see :func:`frozen_tables`."""
        return "table" in self._buffers

    def freeze_(self) -> None:
        """Fix the table that is kept, where it saves enough multiplications for what it has more than the kernel."""
        if self._kept is None:
            return
        replaced = self.weight.numel() - self._kept.narrow.numel()
        if math.prod(self._kept.grid) * replaced > WORTH_A_NUMBER * (self._kept.table.numel() - replaced):
            self.register_buffer("table", self._kept.table, persistent=False)
            self.register_buffer("narrow", self._kept.narrow.contiguous(), persistent=False)

    def unfreeze_(self) -> None:
        """Undo :meth:`freeze_`."""
        if self.is_frozen:
            del self.table, self.narrow

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table out of copies and pickles."""
        return {**self.__dict__, "_kept": None}


@contextmanager
def frozen_tables(module: nn.Module, examples: Sequence[Tensor]) -> Iterator[None]:
    """Let a module that is about to be exported hold tables instead of kernels, where that is worth it.

    Maps whose size follows that of the images have no fixed table, and are convolved plainly.

    Args:
        module: Module in eval mode.
        examples: Inputs of the module, of every size that should be allowed for.
    """
    convolutions = [part for part in module.modules() if isinstance(part, ConditionedConv2d)]
    grids = []
    for example in examples:
        with torch.no_grad():
            module(example)
        grids.append([conv.kept_grid for conv in convolutions])
    for conv, *sizes in zip(convolutions, *grids, strict=True):
        if len(set(sizes)) == 1:
            conv.freeze_()
    try:
        yield
    finally:
        for conv in convolutions:
            conv.unfreeze_()


def saves_work(condition: DiscreteCondition, out_channels: int, learns: bool) -> bool:
    """Compare the multiplications with those of the plain convolution.

    Args:
        condition: Condition whose table is not there yet.
        out_channels: Channels of the result.
        learns: Whether gradients will be computed.

    Returns:
        Whether to make a table.
    """
    batch, channels, height, width = condition.shape
    cells, num_prototypes = batch * height * width, len(condition.concept.prototypes)
    table = num_prototypes * condition.concept_dim + 3 * (height + width) * condition.position_dim // 2
    if condition.patterns is not None:
        table += (len(condition.patterns.codebook) + 1) * condition.pattern_dim
    plain, by_table = cells * channels, table + cells * LOOK_UP_COST
    if learns:
        plain, by_table = 3 * plain, 2 * by_table + cells * condition.pattern_dim
    return NUM_TAPS * out_channels * (plain - by_table) > OVERHEAD[learns]


def _version(source: Tensor) -> tuple[Tensor, int]:
    """Remember a tensor: its storage, kept so that no other can take its place, and how often it was changed."""
    return source.detach(), source._version  # noqa: SLF001
