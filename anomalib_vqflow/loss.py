# SPDX-License-Identifier: Apache-2.0
"""Loss of VQ-Flow: negative log-likelihood of the latents plus the commitment of the codebooks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .distributed import num_processes, rows_of_all_processes, sum_over_processes

TAIL_SHARE = 0.1  # of a batch's cells


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

    A share of the likelihood, ``tail_weight``, is not the mean over the cells of a level but that over the least likely
    tenth of a batch's. These are cells of rare structures and of products with few images: what is normal but scores
    high.

    Source: VQ-Flow (Zhou et al., 2024), https://arxiv.org/abs/2409.00942. Unlike in the paper's release, the
    log-determinant includes that of the concept-aware Gaussian, without which the loss has no lower bound. The tail is
    ours.

    Args:
        commitment_weight: λ, 1 as published.
        tail_weight: Weight of the least likely cells in [0, 1]; 0 as published.

    Raises:
        ValueError: If ``commitment_weight`` is negative, or ``tail_weight`` outside its range.

    Example:
        >>> import torch
        >>> loss = VQFlowLoss(commitment_weight=1.0, tail_weight=0.3)
        >>> terms = loss([torch.ones(2, 3, 4, 4)], [torch.zeros(2, 4, 4)], torch.tensor(0.5))
        >>> terms.total, terms.nll
        (tensor(24.5000), tensor(0.5000))
    """

    def __init__(self, *, commitment_weight: float, tail_weight: float) -> None:
        super().__init__()
        if commitment_weight < 0:
            msg = f"commitment_weight must not be negative, got {commitment_weight}."
            raise ValueError(msg)
        if not 0 <= tail_weight <= 1:
            msg = f"tail_weight must lie in [0, 1], got {tail_weight}."
            raise ValueError(msg)
        self.commitment_weight = commitment_weight
        self.tail_weight = tail_weight

    def forward(self, latents: Sequence[Tensor], log_dets: Sequence[Tensor], commitment: Tensor) -> LossTerms:
        """Compute the loss of a batch, in float32 or wider.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: What each cell contributes to ``log|det J|`` in nats, shape ``(B, h_i, w_i)`` per level.
            commitment: Sum of the codebooks' commitments, shape ``()``.

        Returns:
            The loss and its parts.
        """
        wide = [level.to(torch.promote_types(level.dtype, torch.float32)) for level in log_dets]
        log_det = torch.stack([level.sum(dim=(1, 2)) for level in wide]).sum(dim=0)  # (B,)
        cells = [0.5 * z.to(d.dtype).square().sum(dim=1) - d for z, d in zip(latents, wide, strict=True)]  # (B, h, w)
        num_dims = sum(z[0].numel() for z in latents)
        nll = torch.stack([level.sum(dim=(1, 2)) for level in cells]).sum(dim=0).mean()
        likelihood = nll
        if self.tail_weight:
            tail = torch.stack([level[0].numel() * _tail_mean(level) for level in cells]).sum()
            likelihood = nll.lerp(tail, self.tail_weight)
        return LossTerms(
            total=likelihood + self.commitment_weight * commitment,
            nll=nll.detach() / num_dims,
            log_det=log_det.detach().mean() / num_dims,
            commitment=commitment.detach(),
        )


def _tail_mean(cells: Tensor) -> Tensor:
    """Average the highest values of all processes, and those that equal the lowest of them.

    Of several processes, each gives its part, so that the mean over processes is right, as gradients are averaged.
    """
    values = cells.flatten()
    known = rows_of_all_processes(values.detach())
    num_kept = max(round(TAIL_SHARE * len(known)), 1)
    kept = values >= known.kthvalue(len(known) - num_kept + 1).values
    return num_processes() * torch.where(kept, values, 0.0).sum() / sum_over_processes(kept.sum())
