# SPDX-License-Identifier: Apache-2.0
"""The anchor ⟨PE, ŷ⟩ of a level: position and prototype, which patterns are quantized against."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .concept import Concept
from .position import axis_encoding


@dataclass(frozen=True, eq=False)
class Anchor:
    r"""Position and prototype of every cell of a level, :math:`\langle PE, \hat y \rangle`.

    The first P channels hold the position: first half the column :math:`x`, second half the row :math:`y`. The other D
    channels hold the prototype, the same in all cells of an image. Both are kept apart, and spread out to the map only
    where the map is asked for.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, https://arxiv.org/abs/2409.00942

    Args:
        columns: Encoding of the columns, shape ``(P / 2, w)``.
        rows: Encoding of the rows, shape ``(P / 2, h)``.
        concept: Concept of each image.
    """

    columns: Tensor
    rows: Tensor
    concept: Concept

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the level, in cells."""
        return self.rows.shape[1], self.columns.shape[1]

    @cached_property
    def position(self) -> Tensor:
        """The position of every cell, shape ``(P, h, w)``."""
        height, width = self.grid
        columns = self.columns[:, None, :].expand(-1, height, width)
        rows = self.rows[:, :, None].expand(-1, height, width)
        return torch.cat((columns, rows))

    @cached_property
    def map(self) -> Tensor:
        """⟨PE, ŷ⟩ in every cell, shape ``(B, P + D, h, w)``."""
        prototype = self.concept.prototype
        position = self.position.expand(prototype.shape[0], -1, -1, -1)
        return torch.cat((position, prototype[..., None, None].expand(-1, -1, *self.grid)), dim=1)

    def subtract_from(self, cells: Tensor) -> Tensor:
        """Subtract ⟨PE, ŷ⟩ from every cell without spreading it out to a map of each image.

        Args:
            cells: Map of shape ``(B, P + D, h, w)``.

        Returns:
            Map of the same shape.
        """
        prototype, position = self.concept.prototype, self.position
        in_all_images = F.pad(position, (0, 0, 0, 0, 0, prototype.shape[1]))
        in_all_cells = F.pad(prototype, (position.shape[0], 0))[..., None, None]
        return cells - in_all_images - in_all_cells


def make_anchor(concept: Concept, position_dim: int, grid: tuple[int, int]) -> Anchor:
    """Encode the position of the cells of a level, and join it with the concept.

    Args:
        concept: Concept of each image.
        position_dim: Channels P of the position encoding, a multiple of 4; 0 leaves the position out.
        grid: Height h and width w of the level, in cells.

    Returns:
        The anchor of the level.

    Raises:
        ValueError: If ``position_dim`` is negative or not a multiple of 4.
    """
    prototype = concept.prototype
    rows, columns = (axis_encoding(position_dim, size, prototype.dtype, prototype.device) for size in grid)
    return Anchor(columns, rows, concept)
