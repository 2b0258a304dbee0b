# SPDX-License-Identifier: Apache-2.0
"""A condition of the flows, as the few distinct vectors that it is made of."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_vqflow.constants import constant
from anomalib_vqflow.quantization import Anchor, Concept, Patterns

NUM_TAPS = 9
"""Entries of a 3×3 kernel, row by row."""
INNER_TAPS, LONE_TAPS = ((1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)), ((0.0, 1.0, 0.0),)
"""Which taps along an axis stay inside of the map, per kind of cell: inner, first and last; the only one."""


@dataclass(frozen=True, eq=False)
class DiscreteCondition:
    r"""The condition :math:`[\hat h'; \hat y]` of one level: code, position and prototype instead of a map.

    The channels are those of the pattern ĥ', P + D, and where ``joined`` is set those of the prototype ŷ, D. A 3×3
    convolution of such a map is a sum of table rows, one per tap of the kernel for the code, and one each for the
    prototype, the column and the row; :attr:`table_rows` says which. The order of the rows:

    - ``(K + 1) · 9``: code k under tap t is row ``9 k + t``; code K is the zero outside of the map.
    - ``N · 9``: prototype n in an inner, first or last row and an inner, first or last column.
    - ``3 · w``: column x in an inner, first or last row; only with a position.
    - ``3 · h``: row y in an inner, first or last column; only with a position.

    Where an axis has a single cell, there is one kind of cell along it instead of three.

    Source: ours. The condition itself is that of VQ-Flow (Zhou et al., 2024), https://arxiv.org/abs/2409.00942

    Args:
        anchor: ⟨PE, ŷ⟩ of the level.
        patterns: The code of each cell; None where there are no patterns.
        anchored: Whether ⟨PE, ŷ⟩ is part of the pattern ĥ'.
        joined: Whether ŷ follows the pattern.

    Example:
        >>> import torch
        >>> from anomalib_vqflow.quantization import ConceptQuantizer, make_anchor
        >>> concept = ConceptQuantizer(channels=8, concept_dim=6, num_concepts=4, novelty=0.0)(torch.randn(2, 8, 3, 3))
        >>> anchor = make_anchor(concept, position_dim=4, grid=(3, 5))
        >>> condition = DiscreteCondition(anchor, patterns=None, anchored=True, joined=True)
        >>> condition.dense().shape, condition.table_rows.shape
        (torch.Size([2, 16, 3, 5]), torch.Size([30, 3]))
    """

    anchor: Anchor
    patterns: Patterns | None
    anchored: bool
    joined: bool

    @property
    def concept(self) -> Concept:
        """Concept of each image."""
        return self.anchor.concept

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.anchor.grid

    @property
    def position_dim(self) -> int:
        """Width P of the position encoding, as far as it is part of the condition."""
        return 2 * self.anchor.columns.shape[0] if self.anchored else 0

    @property
    def concept_dim(self) -> int:
        """Width D of the prototypes."""
        return self.concept.prototypes.shape[1]

    @property
    def pattern_dim(self) -> int:
        """Channels of the pattern, P + D."""
        return 2 * self.anchor.columns.shape[0] + self.concept_dim

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the map, ``(B, channels, h, w)``."""
        channels = self.pattern_dim + (self.concept_dim if self.joined else 0)
        return self.concept.rows.shape[0], channels, *self.grid

    @property
    def table_sizes(self) -> list[int]:
        """Number of table rows for codes, for prototypes and, where there is a position, for columns and rows."""
        codes = 0 if self.patterns is None else NUM_TAPS * (self.patterns.codebook.shape[0] + 1)
        (height, width), (of_rows, of_columns) = self.grid, (len(taps) for taps in self.edge_taps)
        sizes = [codes, of_rows * of_columns * self.concept.prototypes.shape[0]]
        return [*sizes, of_rows * width, of_columns * height] if self.position_dim else sizes

    @property
    def edge_taps(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """For rows and for columns, the taps that each kind of cell has inside of the map."""
        height, width = self.grid
        return _axis_taps(height), _axis_taps(width)

    @cached_property
    def pattern(self) -> Tensor:
        r"""The pattern :math:`\hat h'` in every cell, shape ``(B, P + D, h, w)``, with all of its gradient."""
        if self.patterns is None:
            return self.anchor.map
        return self.anchor.map + self.patterns.codes if self.anchored else self.patterns.codes

    def dense(self) -> Tensor:
        """Spread the condition out to the map that it stands for.

        Returns:
            Tensor of shape ``(B, channels, h, w)``.
        """
        return self._map

    @cached_property
    def _map(self) -> Tensor:
        if not self.joined:
            return self.pattern
        prototype = self.concept.prototypes[self.concept.rows]
        return torch.cat((self.pattern, prototype[..., None, None].expand(-1, -1, *self.grid)), dim=1)

    @cached_property
    def table_rows(self) -> Tensor:
        """Rows of the table that add up to each cell, shape ``(B · h · w, n)``, int64, cells in order."""
        height, width = self.grid
        device, batch = self.anchor.columns.device, self.concept.rows.shape[0]
        codes, prototypes = self.table_sizes[:2]
        parts = []
        if self.patterns is not None:
            parts.append(_tap_rows(self.patterns.indices, self.patterns.codebook.shape[0]))
        of_prototype = prototypes // self.concept.prototypes.shape[0] * self.concept.rows[:, None, None, None]
        parts.append(of_prototype + _edge_rows(height, width, codes, device))
        if self.position_dim:
            of_position = _position_rows(height, width, codes + prototypes, device)
            parts.append(of_position.expand(batch, -1, -1, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2)

    @cached_property
    def row_cells(self) -> tuple[Tensor, Tensor]:
        """The inverse of :attr:`table_rows`: the cells of each row in turn, and where each row starts."""
        rows, order = self.table_rows.flatten().sort(stable=True)
        starts = torch.searchsorted(rows, torch.arange(sum(self.table_sizes), device=rows.device))
        return order.div(self.table_rows.shape[1], rounding_mode="floor"), starts


Condition: TypeAlias = Tensor | DiscreteCondition
"""What a flow is conditioned on: any map, or one made of few distinct vectors."""


def dense_condition(condition: Condition) -> Tensor:
    """Get the map of a condition, shape ``(B, channels, h, w)``."""
    return condition.dense() if isinstance(condition, DiscreteCondition) else condition


def _axis_taps(size: int) -> tuple[tuple[float, ...], ...]:
    """Tell the taps that each kind of cell along an axis has inside of the map."""
    return LONE_TAPS if size == 1 else INNER_TAPS


def _edges(places: Tensor) -> Tensor:
    """Tell the kind of each place along an axis: 0 inner, or the only one; 1 first; 2 last."""
    last = len(places) - 1
    return torch.zeros_like(places) if last == 0 else (places == 0) + 2 * (places == last)


def _tap_rows(indices: Tensor, num_codes: int) -> Tensor:
    """Find the code rows of each cell's neighborhood; ``(B, h, w)`` to ``(B, h, w, 9)``."""
    (height, width), device = indices.shape[1:], indices.device
    padded = NUM_TAPS * F.pad(indices, (1, 1, 1, 1), value=num_codes)
    return padded.flatten(1)[:, _windows(height, width, device)] + _taps(device)


@constant
def _taps(device: torch.device) -> Tensor:
    """Number the taps of a kernel, shape ``(9,)``."""
    return torch.arange(NUM_TAPS, device=device)


@constant
def _windows(height: int, width: int, device: torch.device) -> Tensor:
    """Find each cell's neighborhood in a padded map without rows, shape ``(h, w, 9)``."""
    y, x, tap = (torch.arange(size, device=device) for size in (height, width, NUM_TAPS))
    corners = (width + 2) * y[:, None] + x
    return corners[..., None] + (width + 2) * (tap // 3) + tap % 3


@constant
def _edge_rows(height: int, width: int, start: int, device: torch.device) -> Tensor:
    """Number the kinds of cells from ``start`` on, shape ``(h, w, 1)``."""
    rows, columns = (_edges(torch.arange(size, device=device)) for size in (height, width))
    return (start + len(_axis_taps(width)) * rows[:, None] + columns)[..., None]


@constant
def _position_rows(height: int, width: int, start: int, device: torch.device) -> Tensor:
    """Number the columns by the kind of their row, then the rows by that of their column, ``(h, w, 2)``."""
    y, x = (torch.arange(size, device=device) for size in (height, width))
    columns = start + width * _edges(y)[:, None] + x
    rows = start + len(_axis_taps(height)) * width + height * _edges(x) + y[:, None]
    return torch.stack((columns, rows), dim=-1)
