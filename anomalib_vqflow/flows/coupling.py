# SPDX-License-Identifier: Apache-2.0
"""Pattern-conditional affine coupling: one step of the flow of one scale (panel 2 of the framework figure)."""

from collections.abc import Sequence

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_vqflow.condition import Condition

from .subnets import ConvSubnet

INITIAL_GLOBAL_SCALE = 2.0 * torch.tensor(5.0).expm1().log().item()
"""Pre-activation at which the global scale is 1."""


class ConditionalCoupling(InvertibleModule):
    r"""Affine coupling under a condition, global affine, fixed permutation.

    With the input split into :math:`x_1, x_2` (the first half one channel larger if C is odd) and the condition
    :math:`c`:

    .. math::

        s, t = 0.1 \cdot \mathrm{subnet}([x_1; c]), \quad
        y = \Pi \big( a \odot [x_1; \; x_2 \odot e^{\alpha \tanh s} + t] + b \big), \quad
        a = 0.1 \, \mathrm{softplus}_{0.5}(\gamma)

    This is FrEIA 0.2's ``AllInOneBlock`` with hard permutation and softplus global affine, the block of the paper's
    release and of anomalib's flows, and reproduces it (tested). It differs in form: the permutation is an index
    instead of a C × C convolution, and the log-determinant tells the cells apart.

    Source: Real-NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803; VQ-Flow, framework figure, "F_i".

    Args:
        dims_in: One input shape ``[(C, h, w)]`` with C >= 2, without the batch.
        dims_c: One condition shape ``[(K, h, w)]``.
        hidden_dim: Width of the subnet; None for the width of its input, as published.
        second_kernel_size: Size of the subnet's second kernel; 3 as published.
        affine_clamp: Bound α of the log-scale.

    Raises:
        ValueError: If there is not exactly one input and one condition, fewer than two channels, or the bound or
            ``hidden_dim`` is not positive, or the kernel's size is not odd.

    Example:
        >>> import torch
        >>> coupling = ConditionalCoupling(
        ...     [(8, 4, 4)], [(6, 4, 4)], hidden_dim=None, second_kernel_size=3, affine_clamp=1.9
        ... )
        >>> (z,), log_det = coupling([torch.randn(2, 8, 4, 4)], [torch.randn(2, 6, 4, 4)])
        >>> z.shape, log_det.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 4, 4]))
    """

    permutation: Tensor  # (C,), output channel i is input channel permutation[i]

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]],
        *,
        hidden_dim: int | None,
        second_kernel_size: int,
        affine_clamp: float,
    ) -> None:
        super().__init__(dims_in, dims_c)
        if len(dims_in) != 1 or len(dims_c) != 1 or dims_in[0][0] < 2:
            msg = f"Expected one input of at least two channels and one condition, got {dims_in} and {dims_c}."
            raise ValueError(msg)
        channels, condition_dim = dims_in[0][0], dims_c[0][0]
        if affine_clamp <= 0 or (hidden_dim is not None and hidden_dim < 1):
            msg = (
                "Expected a positive affine_clamp (bound of the log-scale) and hidden_dim (None for the published "
                f"width), got {affine_clamp} and {hidden_dim}."
            )
            raise ValueError(msg)
        if second_kernel_size < 1 or second_kernel_size % 2 == 0:
            msg = f"Expected an odd second_kernel_size, got {second_kernel_size}."
            raise ValueError(msg)
        self.affine_clamp = affine_clamp
        self.split = (channels - channels // 2, channels // 2)
        subnet_dim = self.split[0] + condition_dim
        self.subnet = ConvSubnet(
            subnet_dim,
            2 * self.split[1],
            hidden_dim=subnet_dim if hidden_dim is None else hidden_dim,
            second_kernel_size=second_kernel_size,
        )
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), INITIAL_GLOBAL_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("permutation", torch.randperm(channels))

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Condition], rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Transform the input, or invert the transformation when ``rev`` is set.

        Args:
            x_or_z: One tensor of shape ``(B, C, h, w)``.
            c: One condition of shape ``(B, K, h, w)``.
            rev: Whether to run the inverse.
            jac: Whether to compute the log-determinant.

        Returns:
            The transformed tensor, and what each cell contributes to ``log|det J|`` in nats, shape ``(B, h, w)``,
            negated when ``rev`` is set; a zero of shape ``(1, 1, 1)`` if ``jac`` is off.
        """
        (x,), (condition,) = x_or_z, c
        scale = 0.1 * F.softplus(self.global_scale, beta=0.5)
        if rev:
            x = (x.index_select(1, self.permutation.argsort()) - self.global_offset) / scale
        x1, x2 = x.split(self.split, dim=1)
        raw_scale, shift = (0.1 * self.subnet(x1, condition)).chunk(2, dim=1)
        log_scale = self.affine_clamp * torch.tanh(raw_scale)
        log_det = log_scale.sum(dim=1) + scale.log().sum() if jac else x.new_zeros(1, 1, 1)
        if rev:
            return (torch.cat((x1, (x2 - shift) * torch.exp(-log_scale)), dim=1),), -log_det
        y = torch.cat((x1, x2 * log_scale.exp() + shift), dim=1) * scale + self.global_offset
        return (y.index_select(1, self.permutation),), log_det

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes unchanged."""
        return input_dims

    def extra_repr(self) -> str:
        """Tell the split of the channels and the bound when printed."""
        return f"split={self.split}, affine_clamp={self.affine_clamp}"
