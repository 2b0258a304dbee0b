# SPDX-License-Identifier: Apache-2.0
"""Noise on the whitened maps in training."""

from collections.abc import Sequence

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor


class Noise(InvertibleModule):
    """Add Gaussian noise in training; the identity in eval mode and in reverse.

    Without noise, the density of a flow grows without bound where features never vary, such as on a white background,
    and the rounding of a lower precision looks like an anomaly.

    Source: ours.

    Args:
        dims_in: One input shape ``[(C, h, w)]``, without the batch.
        std: Standard deviation of the noise.

    Raises:
        ValueError: If there is not exactly one input, or ``std`` is negative.

    Example:
        >>> import torch
        >>> noise = Noise([(2, 4, 4)], std=0.1)
        >>> x = torch.ones(1, 2, 4, 4)
        >>> torch.equal(noise([x])[0][0], x), torch.equal(noise.eval()([x])[0][0], x)
        (False, True)
    """

    def __init__(self, dims_in: Sequence[tuple[int, ...]], *, std: float) -> None:
        super().__init__(dims_in)
        if len(dims_in) != 1 or std < 0:
            msg = f"Expected one input and a whitening_noise (standard deviation) of at least 0, got {dims_in}, {std}."
            raise ValueError(msg)
        self.std = std

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Add noise in training.

        Args:
            x_or_z: One tensor of shape ``(B, C, h, w)``.
            c: Unused.
            rev: Whether to run the inverse, which is the identity.
            jac: Unused; the log-determinant is zero.

        Returns:
            The tensor, and a zero of shape ``(1, 1, 1)``.
        """
        del c, jac
        (x,) = x_or_z
        log_det = x.new_zeros(1, 1, 1)
        if self.training and not rev:
            return (x + self.std * torch.randn_like(x),), log_det
        return (x,), log_det

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes unchanged."""
        return input_dims

    def extra_repr(self) -> str:
        """Tell the standard deviation when printed."""
        return f"std={self.std}"
