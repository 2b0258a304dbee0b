# SPDX-License-Identifier: Apache-2.0
"""A 3×3 convolution of a map and a condition, which knows when the condition need not be multiplied."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .condition import NUM_TAPS, Condition, DiscreteCondition
from .tables import ConditionConvolution, build_table

TABLE_DEVICES = {"cpu", "cuda"}
"""Where the sums of table rows are implemented and were tested."""
LOOK_UP_COST = 3
"""Multiplications of a cell, per output channel and tap, in the time of which its table rows are added up."""
OVERHEAD = 1e7, 8e7
"""Multiplications in the time of which a table is put together and used, without its own; the second with gradients.
[Measured on one core: 0.3 and 2 ms, at 40 million multiplications per ms.]"""


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
    kept until its sources change. The plain convolution is taken where it costs less.

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

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Convolve.

        Args:
            x: Map of shape ``(B, C_x, h, w)``.
            condition: Condition with the remaining channels, on the same grid; None if x has all channels.

        Returns:
            Map of shape ``(B, d, h, w)``.
        """
        if condition is None:
            return super().forward(x)
        if not isinstance(condition, DiscreteCondition):
            return super().forward(torch.cat((x, condition), dim=1))
        if self.is_frozen:
            cells = self.table[condition.table_rows].sum(dim=1).view(-1, *condition.grid, self.out_channels)
            return F.conv2d(x, self.narrow, self.bias, padding=1) + cells.permute(0, 3, 1, 2)
        if torch.compiler.is_exporting() or x.device.type not in TABLE_DEVICES:
            return super().forward(torch.cat((x, condition.dense()), dim=1))
        learns = torch.is_grad_enabled() and (self.weight.requires_grad or condition.concepts.prototypes.requires_grad)
        if condition.lasting and not self.training and not learns:
            kept = self._keep(condition)
            narrow, cells = kept.narrow, F.embedding_bag(condition.table_rows, kept.table, mode="sum")
        elif saves_work(condition, self.out_channels, learns):
            prototypes = condition.concepts.prototypes
            cells, narrow = ConditionConvolution.apply(self.weight, prototypes, condition.pattern, condition)
        else:
            return super().forward(torch.cat((x, condition.dense()), dim=1))
        batch, _, height, width = condition.shape
        result = F.conv2d(x.contiguous(memory_format=torch.channels_last), narrow, self.bias, padding=1)
        return result.add_(cells.view(batch, height, width, -1).permute(0, 3, 1, 2))

    def train(self, mode: bool = True) -> "ConditionedConv2d":
        """Set the mode, and drop the table."""
        self._kept = None
        return super().train(mode)

    @property
    def kept_grid(self) -> tuple[int, int] | None:
        """Grid of the condition for which there is a table."""
        return None if self._kept is None else self._kept.grid

    def _keep(self, condition: DiscreteCondition) -> KeptTable:
        """Return the kept table, made anew where one of its sources changed."""
        sources = [t for t in (self.weight, condition.codes, condition.concepts.prototypes) if t is not None]
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
        """Fix the table that is kept, where it has fewer numbers than the part of the kernel that it replaces."""
        if self._kept is not None and self._kept.table.numel() < self.weight.numel() - self._kept.narrow.numel():
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
    """Let a module that is about to be exported hold tables instead of kernels, where that is smaller.

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
    cells, dim = batch * height * width, condition.concepts.prototypes.shape[1]
    table = len(condition.concepts.prototypes) * dim + 3 * (height + width) * condition.position_dim // 2
    if condition.codes is not None:
        table += (len(condition.codes) + 1) * condition.pattern_dim
    plain, by_table = cells * channels, table + cells * LOOK_UP_COST
    if learns:
        to_pattern = 0 if condition.pattern is None else condition.pattern_dim
        plain, by_table = 3 * plain, 2 * by_table + cells * to_pattern
    return NUM_TAPS * out_channels * (plain - by_table) > OVERHEAD[learns]


def _version(source: Tensor) -> tuple[Tensor, int]:
    """Remember a tensor: its storage, kept so that no other can take its place, and how often it was changed."""
    return source.detach(), source._version  # noqa: SLF001
