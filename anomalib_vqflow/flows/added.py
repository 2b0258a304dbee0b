# SPDX-License-Identifier: Apache-2.0
"""A base distribution for concepts that a trained flow has not seen: its latents of them, whitened."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from anomalib_vqflow.buffers import resize_buffers_

from .whitening import Moments, whitening_of

SMALLEST_SHRINKAGE = 0.1
"""Weight of the variances alone in the covariance, which is more where there are few cells for many channels: how they
happen to vary together says little then."""


class AddedConcepts(nn.Module):
    r"""Whiten the latents of concepts that were added after the training, per level.

    .. math:: z'' = W_k (z' - m_k)

    with the mean :math:`m_k` of the latents of concept k, and :math:`W_k^\top W_k` their inverse covariance. So the
    density of an added concept is a full Gaussian, seen through the flow of the concepts that were trained. The latents
    of these stay what they are, to the bit.

    Concepts that were added are the last ones of the codebook. At first there are none, and nothing is computed.

    Source: ours.

    Args:
        channels: Channels C_i of the latents of each level.

    Example:
        >>> import torch
        >>> added = AddedConcepts(channels=[2])
        >>> added.append_()
        >>> z = torch.randn(8, 2, 4, 4)
        >>> moments = Moments(2)
        >>> moments.add_(z.permute(0, 2, 3, 1).flatten(0, 2))
        >>> added.fit_([moments])
        >>> (whitened,), (log_det,) = added([z], [torch.zeros(8, 4, 4)], torch.full((8,), 5), num_concepts=6)
        >>> whitened.var(dim=(0, 2, 3), correction=0).mean().round(decimals=2), log_det.shape
        (tensor(1.), torch.Size([8, 4, 4]))
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(map(_Whitenings, channels))

    def __len__(self) -> int:
        """Count the added concepts."""
        return max(len(cast("_Whitenings", self.levels[0]).mean) - 1, 0)

    def forward(
        self, latents: Sequence[Tensor], log_dets: Sequence[Tensor], concept: Tensor, num_concepts: int
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Whiten the latents of the images whose concept was added.

        Args:
            latents: Latents of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: Log-determinants so far, of shape ``(B, h_i, w_i)`` or what broadcasts to it per level, in nats.
            concept: Concept of each image, shape ``(B,)``.
            num_concepts: How many concepts there are, of which the last ones were added.

        Returns:
            Latents and log-determinants, of the same shapes.
        """
        if not len(self):
            return tuple(latents), tuple(log_dets)
        rows = (concept - (num_concepts - len(self) - 1)).clamp_min(0)
        whitened = [level(z, rows) for level, z in zip(self.levels, latents, strict=True)]
        return tuple(z for z, _ in whitened), tuple(a + b for a, (_, b) in zip(log_dets, whitened, strict=True))

    def append_(self) -> None:
        """Add a concept, whose latents stay as they are until it is fitted."""
        for level in self.levels:
            cast("_Whitenings", level).append_()

    def fit_(self, moments: Sequence[Moments]) -> None:
        """Fit the concept that was added last.

        Args:
            moments: Those of its latents before whitening, per level.
        """
        for level, of_level in zip(self.levels, moments, strict=True):
            cast("_Whitenings", level).fit_(of_level)


class _Whitenings(nn.Module):
    """Means and whitenings of one level: in the first row none, then those of the concepts; empty if there are none."""

    mean: Tensor  # (A + 1, C)
    weight: Tensor  # (A + 1, C, C)
    log_det: Tensor  # (A + 1,), of each cell, in nats

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0, channels))
        self.register_buffer("weight", torch.zeros(0, channels, channels))
        self.register_buffer("log_det", torch.zeros(0))

    def forward(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        # The row of none multiplies by one and adds zeros, which changes no bit.
        cells = self.weight[rows] @ (z - self.mean[rows][..., None, None]).flatten(2)
        return cells.view(z.shape), self.log_det[rows][:, None, None]

    @torch.no_grad()
    def append_(self) -> None:
        channels, count = self.mean.shape[1], 1 if len(self.mean) else 2
        self.mean = torch.cat((self.mean, self.mean.new_zeros(count, channels)))
        self.weight = torch.cat((self.weight, torch.eye(channels).to(self.weight).expand(count, -1, -1)))
        self.log_det = torch.cat((self.log_det, self.log_det.new_zeros(count)))

    @torch.no_grad()
    def fit_(self, moments: Moments) -> None:
        mean, covariance = moments.mean_and_covariance()
        shrinkage = max(SMALLEST_SHRINKAGE, len(mean) / (len(mean) + moments.count))
        weight, log_det = whitening_of(torch.lerp(covariance, covariance.diagonal().diag(), shrinkage))
        self.mean[-1], self.weight[-1], self.log_det[-1] = mean, weight, log_det

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        resize_buffers_(self, ("mean", "weight", "log_det"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
