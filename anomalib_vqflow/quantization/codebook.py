# SPDX-License-Identifier: Apache-2.0
"""A codebook that learns its codes as running cluster means, and keeps them in use."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_vqflow.distributed import (
    follow_first_,
    is_first,
    num_processes,
    rows_of_all_processes,
    sum_over_processes,
)

MAX_CANDIDATES = 8192
"""Vectors of a batch considered for the reinitialization of codes: enough for 512 codes, and bounds its cost."""

ROUNDING = 16.0
"""Machine epsilons of a vector's squared norm within which a squared distance is only rounding."""


class Quantized(NamedTuple):
    """What a codebook makes of a batch of vectors."""

    codes: Tensor  # (..., D), straight-through: the gradient passes to the input unchanged
    indices: Tensor  # (...), int64
    commitment: Tensor  # (), mean squared distance of the inputs to their (fixed) codes


class Codebook(nn.Module):
    r"""Replace vectors by their nearest code, :math:`Q(x) = \arg\min_{c_k} \lVert x - c_k \rVert`.

    In training the codes follow the exponential moving averages of the vectors that chose them. A code that no vector
    has chosen for long, or that was never initialized, is *reinitialized* to a vector of the batch, drawn with
    probability proportional to its squared distance to the nearest code (k-means++). This resets the code, its running
    sum and its running count together. All codes start uninitialized, so the first batches initialize the codebook, and
    whatever appears later (a product that the first batches lacked) finds a free code. Vectors choose among
    initialized codes only.

    ``novelty`` keeps a book of few, well separated codes from splitting its clusters: a vector deserves a code of its
    own only if its squared distance to the nearest code exceeds ``novelty`` times the variance of the batch.

    In distributed training the batch is that of all processes: the first one decides which codes are reinitialized, and
    all add up which vectors chose which code.

    Source: the codebooks of VQ-Flow (Zhou et al., 2024), https://arxiv.org/abs/2409.00942, with the moving-average
    update of van den Oord et al., 2017, https://arxiv.org/abs/1711.00937. Unlike the paper's release, codes are
    initialized from data, because codes drawn from N(0, 1) with empty counts collapse to one in the first step.

    Args:
        num_codes: Number of codes K.
        code_dim: Width of a code D.
        novelty: See above; 0 lets every code be initialized.
        decay: Weight of the past in the moving averages, per step.
        dead_below: A code is free again when its running count (vectors per step) falls below this.

    Raises:
        ValueError: If a size is not positive or a rate lies outside its range.

    Example:
        >>> import torch
        >>> codebook = Codebook(num_codes=4, code_dim=16, novelty=0.0)
        >>> quantized = codebook(torch.randn(2, 5, 5, 16))
        >>> quantized.codes.shape, quantized.indices.shape, quantized.commitment.shape
        (torch.Size([2, 5, 5, 16]), torch.Size([2, 5, 5]), torch.Size([]))
    """

    codes: Tensor  # (K, D)
    code_sums: Tensor  # (K, D)
    code_counts: Tensor  # (K,), vectors per step; 0 for a code that was never initialized

    def __init__(
        self, num_codes: int, code_dim: int, *, novelty: float, decay: float = 0.99, dead_below: float = 0.01
    ) -> None:
        super().__init__()
        if num_codes < 1 or code_dim < 1:
            msg = f"A codebook needs at least one code of at least one dimension, got {num_codes} of {code_dim}."
            raise ValueError(msg)
        if not 0 <= decay < 1 or dead_below <= 0 or novelty < 0:
            msg = (
                "Expected 0 <= decay < 1, dead_below > 0 and novelty >= 0, "
                f"got decay={decay}, dead_below={dead_below}, novelty={novelty}."
            )
            raise ValueError(msg)
        self.decay = decay
        self.dead_below = dead_below
        self.novelty = novelty
        self.register_buffer("codes", torch.zeros(num_codes, code_dim))
        self.register_buffer("code_sums", torch.zeros(num_codes, code_dim))
        self.register_buffer("code_counts", torch.zeros(num_codes))

    @property
    def num_codes(self) -> int:
        """Number of codes K."""
        return self.codes.shape[0]

    @property
    def code_dim(self) -> int:
        """Width of a code D."""
        return self.codes.shape[1]

    @property
    def usage(self) -> Tensor:
        """Share of the codes in use, in [0, 1], shape ``()``."""
        return (self.code_counts >= self.dead_below).float().mean()

    @property
    def perplexity(self) -> Tensor:
        """Exponential of the entropy of the codes' use, from 1 (one code) to K (all alike), shape ``()``."""
        share = self.code_counts / self.code_counts.sum().clamp_min(1e-12)
        return torch.special.entr(share).sum().exp()

    def forward(self, x: Tensor) -> Quantized:
        """Quantize vectors; in training, also learn from them.

        Args:
            x: Vectors of shape ``(..., D)``.

        Returns:
            Their codes, code indices and commitment. Distances and codes are computed in the type of the buffers,
            whatever autocast says: half precision cannot tell near codes apart.

        Raises:
            ValueError: If the last dimension of ``x`` is not D.
        """
        if x.shape[-1] != self.code_dim:
            msg = f"Expected vectors of width {self.code_dim}, got shape {tuple(x.shape)}."
            raise ValueError(msg)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._quantize(x)
        return self._quantize(x)

    def _quantize(self, x: Tensor) -> Quantized:
        x = x.to(self.codes.dtype)
        if self.training:
            self._learn_(x.detach())
        indices = self.nearest(x)
        codes = self.codes[indices]  # not F.embedding, which costs accuracy under INT8 quantization
        if not self.training:
            return Quantized(codes, indices, x.new_zeros(()))
        commitment = F.mse_loss(x, codes)
        return Quantized(x + (codes - x).detach(), indices, commitment)

    @torch.no_grad()
    def append_(self, code: Tensor) -> None:
        """Add a code that no vector chooses by itself; all others keep their numbers.

        Args:
            code: The code, shape ``(D,)``.
        """
        self.codes = torch.cat((self.codes, code[None]))
        self.code_sums = torch.cat((self.code_sums, code[None]))
        self.code_counts = torch.cat((self.code_counts, self.code_counts.new_zeros(1)))

    @torch.no_grad()
    def retire_(self, code: int) -> None:
        """Let no vector choose a code any more; all others keep their numbers.

        Args:
            code: Its number.
        """
        self.code_counts[code] = 0

    def extra_repr(self) -> str:
        """Tell the size when printed."""
        return f"num_codes={self.num_codes}, code_dim={self.code_dim}, novelty={self.novelty}"

    def nearest(self, x: Tensor) -> Tensor:
        """Index the nearest initialized code of each vector.

        Args:
            x: Vectors of shape ``(..., D)``.

        Returns:
            Indices of shape ``(...)``.
        """
        initialized = self.code_counts > 0
        # Out of reach, but finite: quantization tools subtract constants from each other.
        out_of_reach = torch.where(initialized, 0.0, 1e30)
        # Distances from a common center are small, so that they survive rounding where a runtime computes in bfloat16.
        center = (self.codes * initialized[:, None]).sum(dim=0) / initialized.sum().clamp_min(1)
        codes = self.codes - center
        # |x|² is the same for all codes, so it is left out. The codes are scaled, not the larger product.
        cells = x.reshape(-1, self.code_dim) - center  # as a matrix, which no runtime lays out like a map
        distances = codes.square().sum(dim=1) + out_of_reach + cells @ (-2.0 * codes.T)
        return distances.view(*x.shape[:-1], self.num_codes).argmin(dim=-1)

    @torch.no_grad()
    def _learn_(self, x: Tensor) -> None:
        """Reinitialize free codes, then move all towards the vectors of ``x``, ``(B, ..., D)``, that choose them."""
        if (self.code_counts < self.dead_below).any():
            candidates = self._candidates(x)
            if is_first() and len(candidates):
                self._reinitialize_(candidates)
            follow_first_(self.codes, self.code_sums, self.code_counts)
        x = x.reshape(-1, self.code_dim)
        finite = _is_finite(x)
        x = torch.where(finite[:, None], x, 0.0)  # a broken vector must not poison a running mean
        chosen = self.nearest(x)  # (N,)
        counts = torch.zeros_like(self.code_counts).index_add_(0, chosen, finite.to(x.dtype))
        sums = torch.zeros_like(self.code_sums).index_add_(0, chosen, x)
        self.code_counts.lerp_(sum_over_processes(counts), 1 - self.decay)
        self.code_sums.lerp_(sum_over_processes(sums), 1 - self.decay)
        live = self.code_counts >= self.dead_below
        mean = self.code_sums / self.code_counts.clamp_min(self.dead_below)[:, None]
        self.codes.copy_(torch.where(live[:, None], mean, self.codes))

    def _candidates(self, x: Tensor) -> Tensor:
        """Collect what free codes may become from the vectors of all processes, ``(B, ..., D)``; shape ``(N, D)``."""
        share = MAX_CANDIDATES // num_processes()
        if num_processes() > 1 and x[..., 0].numel() > share:
            x = x.reshape(-1, self.code_dim)
            x = x[torch.randperm(len(x), device=x.device)[:share]]
        x = rows_of_all_processes(x).reshape(-1, self.code_dim)
        return x[_is_finite(x)]

    def _reinitialize_(self, x: Tensor) -> None:
        """Reinitialize free codes, least used first, to vectors of ``x``, shape ``(N, D)``, as k-means++ would."""
        if len(x) > MAX_CANDIDATES:
            x = x[torch.randperm(len(x), device=x.device)[:MAX_CANDIDATES]]
        info = torch.finfo(x.dtype)
        variance = x.var(dim=0, correction=0).sum()
        threshold = torch.maximum(self.novelty * variance, ROUNDING * info.eps * x.square().sum(dim=1))  # (N,)
        # A code that fell out of use still stands for its cluster, which needs no second one when it comes back.
        known = self.codes[self.code_counts > 0]
        distance = torch.cdist(x, known).amin(dim=1).square() if len(known) else torch.full_like(threshold, torch.inf)
        order = self.code_counts.argsort(stable=True)
        for code in order[self.code_counts[order] < self.dead_below].tolist():
            weight = torch.where(distance > threshold, distance.clamp_max(info.max), 0.0)
            if not weight.any():  # nothing novel is left: the remaining codes stay free
                return
            vector = x[torch.multinomial(weight / weight.max(), 1)[0]]
            self.codes[code] = vector
            self.code_sums[code] = vector
            self.code_counts[code] = 1.0
            distance = torch.minimum(distance, (x - vector).square().sum(dim=1))


def _is_finite(x: Tensor) -> Tensor:
    """Tell which vectors of ``x``, ``(N, D)``, are neither NaN nor infinite nor too large for a distance."""
    return x.square().sum(dim=1).isfinite()
