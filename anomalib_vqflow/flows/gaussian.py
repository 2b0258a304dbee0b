# SPDX-License-Identifier: Apache-2.0
"""Concept-aware Gaussian: the base distribution of the flows (panel 3 of the framework figure)."""

from collections.abc import Sequence

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn


class ConceptGaussian(InvertibleModule):
    r"""Standardize latents with the mean and standard deviation of their concept.

    .. math:: z' = (z - \mu(\hat y)) / \sigma(\hat y)

    A standard-normal likelihood on :math:`z'`, plus the log-determinant returned here, is exactly
    :math:`\log \mathcal N(z; \mu(\hat y), \sigma(\hat y)^2)`. Leaving the log-determinant out, as the paper's release
    does, lets the loss fall without bound as :math:`\sigma` grows. The generator predicts :math:`\log \sigma`, so that
    :math:`\sigma > 0` by construction. It starts at the standard normal.

    Source: VQ-Flow (Zhou et al., 2024), concept-aware distribution modeling, https://arxiv.org/abs/2409.00942

    Args:
        dims_in: One latent shape ``[(C, h, w)]``, without the batch.
        dims_c: One condition shape ``[(D,)]``: the prototype :math:`\hat y`.

    Raises:
        ValueError: If there is not exactly one latent and one condition.

    Example:
        >>> import torch
        >>> gaussian = ConceptGaussian([(8, 4, 4)], [(16,)])
        >>> (z,), log_det = gaussian([torch.randn(2, 8, 4, 4)], [torch.randn(2, 16)])
        >>> z.shape, log_det.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 1, 1]))
    """

    def __init__(self, dims_in: Sequence[tuple[int, ...]], dims_c: Sequence[tuple[int, ...]]) -> None:
        super().__init__(dims_in, dims_c)
        if len(dims_in) != 1 or len(dims_c) != 1:
            msg = f"Expected one latent and one condition, got {len(dims_in)} and {len(dims_c)}."
            raise ValueError(msg)
        channels, concept_dim = dims_in[0][0], dims_c[0][0]
        self.mean = nn.Linear(concept_dim, channels)
        self.log_std = nn.Linear(concept_dim, channels)
        for generator in (self.mean, self.log_std):
            nn.init.zeros_(generator.weight)
            nn.init.zeros_(generator.bias)

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Tensor], rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Standardize the latents, or restore them when ``rev`` is set.

        Args:
            x_or_z: One tensor of shape ``(B, C, h, w)``.
            c: One tensor of shape ``(B, D)``.
            rev: Whether to run the inverse.
            jac: Unused; the log-determinant is free here.

        Returns:
            The transformed tensor, and what every cell contributes to ``log|det J|`` in nats, shape ``(B, 1, 1)``,
            negated when ``rev`` is set.
        """
        del jac
        (latents,), (prototype,) = x_or_z, c
        mean, log_std = self.mean(prototype)[..., None, None], self.log_std(prototype)[..., None, None]  # (B, C, 1, 1)
        if rev:
            return (latents * log_std.exp() + mean,), log_std.sum(dim=1)
        return ((latents - mean) * torch.exp(-log_std),), -log_std.sum(dim=1)

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes unchanged."""
        return input_dims
