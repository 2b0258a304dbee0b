# SPDX-License-Identifier: Apache-2.0
"""Cross-scale fusion: one coupling over the latents of all scales."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_vqflow.condition import Condition, ConditionedConv2d, dense_condition

from .arctan import arctan
from .subnets import ChannelNorm, same_conv


class ScaleShift(NamedTuple):
    """What a fusion subnet predicts, one map per scale each."""

    raw_scales: list[Tensor]  # (B, C_i, h_i, w_i), before the clamp
    shifts: list[Tensor]  # (B, C_i, h_i, w_i)


class FusionSubnet(nn.Module):
    """Predict scale and shift for every scale from one half of all scales and the condition.

    All maps are averaged down to the coarsest grid, mixed there by two 3×3 convolutions, resized back and added to the
    scale's own half; one 3×3 convolution per scale then predicts the scale, another the shift. The last ones start at
    zero, so that a new fusion is the identity up to its permutations.

    Source: behavior of the paper's release; the framework figure shows no fusion.

    Args:
        channels: Channels of the half of each scale that it sees.
        out_channels: Channels of the half of each scale that it predicts for.
        condition_dim: Channels of the condition, which lives on the coarsest grid.
    """

    def __init__(self, channels: Sequence[int], out_channels: Sequence[int], condition_dim: int) -> None:
        super().__init__()
        self.channels = list(channels)
        total = sum(channels) + condition_dim
        hidden_dim = max(total // 4, 1)
        self.conv1 = ConditionedConv2d(total, hidden_dim)
        self.norm = ChannelNorm(hidden_dim)
        self.conv2 = same_conv(hidden_dim, sum(channels))
        self.scale_convs = nn.ModuleList(
            same_conv(c_in, c_out) for c_in, c_out in zip(channels, out_channels, strict=True)
        )
        self.shift_convs = nn.ModuleList(
            same_conv(c_in, c_out) for c_in, c_out in zip(channels, out_channels, strict=True)
        )
        for conv in (*self.scale_convs, *self.shift_convs):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, halves: Sequence[Tensor], condition: Condition) -> ScaleShift:
        """Predict scale and shift.

        Args:
            halves: One map of shape ``(B, C_i, h_i, w_i)`` per scale, fine to coarse.
            condition: Map of shape ``(B, K, h_L, w_L)`` on the coarsest grid, or what it is made of.

        Returns:
            Raw scales and shifts of the other half of each scale.
        """
        grid = (condition.shape[-2], condition.shape[-1])
        pooled = [half if half.shape[-2:] == grid else F.adaptive_avg_pool2d(half, grid) for half in halves]
        mixed = F.relu(self.norm(self.conv1(torch.cat(pooled, dim=1), condition)))
        shared = F.relu(self.conv2(mixed)).split(self.channels, dim=1)
        joined = [
            half + F.interpolate(part, size=half.shape[-2:], mode="bilinear", align_corners=True)
            for half, part in zip(halves, shared, strict=True)
        ]
        return ScaleShift(
            [conv(x) for conv, x in zip(self.scale_convs, joined, strict=True)],
            [conv(x) for conv, x in zip(self.shift_convs, joined, strict=True)],
        )


class FusionCoupling(InvertibleModule):
    r"""Two-sided affine coupling across scales.

    Each scale is permuted and split in two halves. The second halves of all scales predict scale and shift of the first
    halves; the changed first halves predict those of the second. The log-scale is
    :math:`\alpha \cdot 0.636 \arctan(s / \alpha)`.

    Source: behavior of the paper's release; the framework figure shows no fusion.

    Args:
        dims_in: Input shapes ``[(C_i, h_i, w_i), ...]``, fine to coarse, each with C_i >= 2, without the batch.
        dims_c: One condition shape ``[(K, h, w)]``; it is averaged to the coarsest grid if it is finer.
        affine_clamp: Bound α of the log-scale (nearly: the bound is 0.999 α).

    Raises:
        ValueError: If there is not exactly one condition, a scale has fewer than two channels, or the bound is not
            positive.

    Example:
        >>> import torch
        >>> fusion = FusionCoupling([(8, 4, 4), (6, 2, 2)], [(5, 2, 2)], affine_clamp=1.9)
        >>> z, log_dets = fusion([torch.randn(2, 8, 4, 4), torch.randn(2, 6, 2, 2)], [torch.randn(2, 5, 2, 2)])
        >>> [tuple(level.shape) for level in z], [tuple(level.shape) for level in log_dets]
        ([(2, 8, 4, 4), (2, 6, 2, 2)], [(2, 4, 4), (2, 2, 2)])
    """

    def __init__(
        self, dims_in: Sequence[tuple[int, ...]], dims_c: Sequence[tuple[int, ...]], *, affine_clamp: float
    ) -> None:
        super().__init__(dims_in, dims_c)
        channels = [dims[0] for dims in dims_in]
        if len(dims_c) != 1 or min(channels, default=0) < 2:
            msg = f"Expected scales of at least two channels and one condition, got {dims_in} and {dims_c}."
            raise ValueError(msg)
        if affine_clamp <= 0:
            msg = f"affine_clamp, the bound of the log-scale, must be positive, got {affine_clamp}."
            raise ValueError(msg)
        self.affine_clamp = affine_clamp
        first, second = [c - c // 2 for c in channels], [c // 2 for c in channels]
        self.splits = list(zip(first, second, strict=True))
        self.first_subnet = FusionSubnet(second, first, dims_c[0][0])  # predicts for the first halves
        self.second_subnet = FusionSubnet(first, second, dims_c[0][0])
        for level, c in enumerate(channels):
            self.register_buffer(f"permutation_{level}", torch.randperm(c))

    @property
    def permutations(self) -> list[Tensor]:
        """The fixed permutation of each scale, shape ``(C_i,)``: channel i takes input channel ``permutation[i]``."""
        return [self.get_buffer(f"permutation_{level}") for level in range(len(self.splits))]

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Condition], rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Transform the latents of all scales, or invert the transformation when ``rev`` is set.

        Args:
            x_or_z: One tensor of shape ``(B, C_i, h_i, w_i)`` per scale.
            c: One condition of shape ``(B, K, h, w)``.
            rev: Whether to run the inverse.
            jac: Whether to compute the log-determinants.

        Returns:
            The transformed tensors, and per scale what each cell contributes to ``log|det J|`` in nats, shape
            ``(B, h_i, w_i)``, negated when ``rev`` is set; zeros of shape ``(1, 1, 1)`` if ``jac`` is off.
        """
        condition = _fit_to_grid(c[0], x_or_z[-1])
        levels, log_scales = (self._split_fused if rev else self._fuse)(x_or_z, condition)
        if not jac:
            return levels, tuple(x.new_zeros(1, 1, 1) for x in levels)
        log_dets = [first.sum(dim=1) + second.sum(dim=1) for first, second in log_scales]
        return levels, tuple(-log_det if rev else log_det for log_det in log_dets)

    def _fuse(self, x: Sequence[Tensor], condition: Condition) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
        """Transform the latents; also return the log-scales of both halves of each scale."""
        permuted = [level.index_select(1, order) for level, order in zip(x, self.permutations, strict=True)]
        first, second = self._halves(permuted)
        first_scales, first_shifts = self._scale_shift(self.first_subnet, second, condition)
        first = [x * s.exp() + t for x, s, t in zip(first, first_scales, first_shifts, strict=True)]
        second_scales, second_shifts = self._scale_shift(self.second_subnet, first, condition)
        second = [x * s.exp() + t for x, s, t in zip(second, second_scales, second_shifts, strict=True)]
        z = tuple(torch.cat(pair, dim=1) for pair in zip(first, second, strict=True))
        return z, list(zip(first_scales, second_scales, strict=True))

    def _split_fused(
        self, z: Sequence[Tensor], condition: Condition
    ) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
        """Restore the input; the log-scales are those of :meth:`_fuse`."""
        first, second = self._halves(z)
        second_scales, second_shifts = self._scale_shift(self.second_subnet, first, condition)
        second = [(x - t) * torch.exp(-s) for x, s, t in zip(second, second_scales, second_shifts, strict=True)]
        first_scales, first_shifts = self._scale_shift(self.first_subnet, second, condition)
        first = [(x - t) * torch.exp(-s) for x, s, t in zip(first, first_scales, first_shifts, strict=True)]
        permuted = [torch.cat(pair, dim=1) for pair in zip(first, second, strict=True)]
        x = tuple(level[:, order.argsort()] for level, order in zip(permuted, self.permutations, strict=True))
        return x, list(zip(first_scales, second_scales, strict=True))

    def _halves(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Split the channels of every scale in two halves."""
        halves = [level.split(split, dim=1) for level, split in zip(levels, self.splits, strict=True)]
        return [half[0] for half in halves], [half[1] for half in halves]

    def _scale_shift(self, subnet: FusionSubnet, halves: list[Tensor], condition: Condition) -> ScaleShift:
        """Predict log-scales, clamped, and shifts."""
        predicted = subnet(halves, condition)
        alpha = self.affine_clamp
        return ScaleShift([alpha * 0.636 * arctan(s / alpha) for s in predicted.raw_scales], predicted.shifts)

    def extra_repr(self) -> str:
        """Tell the splits of the channels and the bound when printed."""
        return f"splits={self.splits}, affine_clamp={self.affine_clamp}"


def _fit_to_grid(condition: Condition, coarsest: Tensor) -> Condition:
    grid = (coarsest.shape[-2], coarsest.shape[-1])
    if condition.shape[-2:] == grid:
        return condition
    return F.adaptive_avg_pool2d(dense_condition(condition), grid)
