# SPDX-License-Identifier: Apache-2.0
"""Concept-Specific Pattern Codebook (CSPC): which normal pattern belongs in this cell?"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_vqflow.distributed import SyncedBatchNorm2d

from .anchor import Anchor
from .codebook import Codebook


class Patterns(NamedTuple):
    """Which code each cell of a level has, and the codes that there are."""

    codes: Tensor  # (B, P + D, h, w), straight-through in training
    indices: Tensor  # (B, h, w), int64
    commitment: Tensor  # (), see Quantized
    codebook: Tensor  # (K, P + D), the codes as they were chosen from


class SemanticContext(nn.Sequential):
    """Embed the semantic map once for all detail levels: 1×1 convolution, batch normalization, ReLU.

    Args:
        channels: Channels of the semantic map h_4.
        pattern_dim: Width of the patterns, P + D.
    """

    def __init__(self, *, channels: int, pattern_dim: int) -> None:
        super().__init__(*_pointwise(channels, pattern_dim))


class PatternQuantizer(nn.Module):
    r"""Quantize the features of one level against their position and concept.

    .. math:: Q_{csp}\big(h' - \langle PE, \hat y \rangle\big)

    The query :math:`h'` comes from two 1×1 convolutions of the level's features plus, where a context is given, the
    semantic map upsampled to the level. With ``residual`` off, the query is quantized as it is.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "Concept-Specific Pattern Codebook",
    https://arxiv.org/abs/2409.00942. The figure does not show the context; the paper's release adds it.

    Args:
        channels: Channels of the level.
        pattern_dim: Width of the patterns, P + D.
        num_patterns: Number of codes K.
        use_context: Whether the semantic context is added to the query (all levels but the semantic one).
        residual: Whether position and prototype are subtracted before quantization.

    Example:
        >>> import torch
        >>> from anomalib_vqflow.quantization import ConceptQuantizer, make_anchor
        >>> concept = ConceptQuantizer(channels=32, concept_dim=16, num_concepts=4, novelty=0.0)(
        ...     torch.randn(2, 32, 3, 3)
        ... )
        >>> quantizer = PatternQuantizer(channels=8, pattern_dim=24, num_patterns=4, use_context=True, residual=True)
        >>> anchor = make_anchor(concept, position_dim=8, grid=(6, 6))
        >>> patterns = quantizer(torch.randn(2, 8, 6, 6), anchor, torch.randn(2, 24, 3, 3))
        >>> patterns.codes.shape, patterns.indices.shape
        (torch.Size([2, 24, 6, 6]), torch.Size([2, 6, 6]))
    """

    def __init__(
        self, *, channels: int, pattern_dim: int, num_patterns: int, use_context: bool, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.encoder = nn.Sequential(*_pointwise(channels, pattern_dim), *_pointwise(pattern_dim, pattern_dim))
        self.mixer = nn.Conv2d(pattern_dim, pattern_dim, 1) if use_context else None
        self.codebook = Codebook(num_patterns, pattern_dim, novelty=0.0)

    def forward(self, features: Tensor, anchor: Anchor, context: Tensor | None) -> Patterns:
        """Quantize the cells of one level.

        Args:
            features: Map of shape ``(B, C, h, w)``.
            anchor: ⟨PE, ŷ⟩ of the level.
            context: Embedded semantic map of shape ``(B, P + D, h', w')`` where ``use_context`` is set, else None.

        Returns:
            The code of each cell.

        Raises:
            ValueError: If a required context is missing, or one is given that would not be used.
        """
        query = self._query(features, context)
        cells = anchor.subtract_from(query) if self.residual else query
        codes, indices, commitment = self.codebook(cells.permute(0, 2, 3, 1))
        codebook = self.codebook.codes
        if self.training:
            codebook = codebook.clone()  # the next batch moves the codes, maybe before the gradients are computed
        return Patterns(codes.permute(0, 3, 1, 2), indices, commitment, codebook)

    def _query(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Embed the level's features and the context to h' of shape ``(B, P + D, h, w)``."""
        if (self.mixer is None) != (context is None):
            wanted, came = ("no", "one") if self.mixer is None else ("a", "none")
            msg = f"Expected {wanted} context, as use_context says, got {came}."
            raise ValueError(msg)
        query = self.encoder(features)
        if self.mixer is None or context is None:
            return query
        # The 1×1 convolution commutes with the interpolation (its weights sum to one), so it runs on the small map.
        mixed = self.mixer(context)
        return query + F.interpolate(mixed, size=query.shape[-2:], mode="bilinear", align_corners=False)


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1), SyncedBatchNorm2d(out_channels), nn.ReLU()]
