# SPDX-License-Identifier: Apache-2.0
"""Loss of VQ-Flow: negative log-likelihood of the latents plus the commitment of the codebooks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class LossTerms(NamedTuple):
    """The loss and its parts. All but ``total`` are detached."""

    total: Tensor  # (), nats per image plus weighted commitment: what is minimized
    nll: Tensor  # (), nats per latent dimension, without the constant ½ log 2π
    log_det: Tensor  # (), nats per latent dimension
    commitment: Tensor  # (), unweighted


class VQFlowLoss(nn.Module):
    r"""Mean over images of the negative log-likelihood, plus the commitment.

    .. math:: L = \frac{1}{B} \sum_b \Big[ \sum_i \tfrac12 \lVert z'_{b,i} \rVert^2 - \log|\det J_b| \Big]
              + \lambda L_{commitment}

    The log-determinant of an image is the sum of its cells'. The likelihood leaves out the constant
    :math:`\tfrac12 \log 2\pi` per dimension.

    Source: VQ-Flow (Zhou et al., 2024), https://arxiv.org/abs/2409.00942. Unlike in the paper's release, the
    log-determinant includes that of the concept-aware Gaussian, without which the loss has no lower bound.

    Args:
        commitment_weight: λ, 1 as published.

    Raises:
        ValueError: If ``commitment_weight`` is negative.

    Example:
        >>> import torch
        >>> loss = VQFlowLoss(commitment_weight=1.0)
        >>> terms = loss([torch.ones(2, 3, 4, 4)], [torch.zeros(2, 4, 4)], torch.tensor(0.5))
        >>> terms.total, terms.nll
        (tensor(24.5000), tensor(0.5000))
    """

    def __init__(self, *, commitment_weight: float) -> None:
        super().__init__()
        if commitment_weight < 0:
            msg = f"commitment_weight must not be negative, got {commitment_weight}."
            raise ValueError(msg)
        self.commitment_weight = commitment_weight

    def forward(self, latents: Sequence[Tensor], log_dets: Sequence[Tensor], commitment: Tensor) -> LossTerms:
        """Compute the loss of a batch, in float32 or wider.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: What each cell contributes to ``log|det J|`` in nats, shape ``(B, h_i, w_i)`` per level.
            commitment: Sum of the codebooks' commitments, shape ``()``.

        Returns:
            The loss and its parts.
        """
        log_det = torch.stack([level.sum(dim=(1, 2)) for level in log_dets]).sum(dim=0)  # (B,)
        log_det = log_det.to(torch.promote_types(log_det.dtype, torch.float32))
        energies = [0.5 * z.to(log_det.dtype).square().flatten(1).sum(dim=1) for z in latents]
        num_dims = sum(z[0].numel() for z in latents)
        nll = (torch.stack(energies).sum(dim=0) - log_det).mean()
        return LossTerms(
            total=nll + self.commitment_weight * commitment,
            nll=nll.detach() / num_dims,
            log_det=log_det.detach().mean() / num_dims,
            commitment=commitment.detach(),
        )
