# SPDX-License-Identifier: Apache-2.0
"""Concept-Specific Pattern Codebook (CSPC): which normal pattern belongs in this cell?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codebook import Codebook, Quantized
from .position import sinusoidal_encoding


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()]


class SemanticContext(nn.Sequential):
    """Embed the semantic map once for all detail levels: 1×1 convolution, batch normalization, ReLU.

    Args:
        channels: Channels of the semantic map h_4.
        pattern_dim: Width of the patterns, P + D.
    """

    def __init__(self, channels: int, pattern_dim: int) -> None:
        super().__init__(*_pointwise(channels, pattern_dim))


class PatternQuantizer(nn.Module):
    r"""Quantize the features of one level against their position and concept.

    .. math:: \hat h' = \langle PE, \hat y \rangle + Q_{csp}\big(h' - \langle PE, \hat y \rangle\big)

    with the query :math:`h'` from two 1×1 convolutions of the level's features plus, where a context is given, the
    semantic map upsampled to the level. With ``residual`` off, the query is quantized as it is.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "Concept-Specific Pattern Codebook",
    https://arxiv.org/abs/2409.00942. The figure does not show the context; the paper's release adds it.

    Args:
        channels: Channels of the level.
        concept_dim: Width D of the prototypes.
        position_dim: Width P of the position encoding, a multiple of 4; 0 leaves the position out.
        num_patterns: Number of codes K.
        use_context: Whether the semantic context is added to the query (all levels but the semantic one).
        residual: Whether position and prototype are subtracted before quantization.

    Example:
        >>> import torch
        >>> quantizer = PatternQuantizer(8, concept_dim=16, position_dim=8, num_patterns=4, use_context=True)
        >>> pattern = quantizer(torch.randn(2, 8, 6, 6), torch.randn(2, 16), torch.randn(2, 24, 3, 3))
        >>> pattern.codes.shape, pattern.indices.shape
        (torch.Size([2, 24, 6, 6]), torch.Size([2, 6, 6]))
    """

    def __init__(
        self,
        channels: int,
        concept_dim: int,
        position_dim: int,
        num_patterns: int,
        use_context: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        pattern_dim = position_dim + concept_dim
        self.position_dim = position_dim
        self.residual = residual
        self.encoder = nn.Sequential(*_pointwise(channels, pattern_dim), *_pointwise(pattern_dim, pattern_dim))
        self.mixer = nn.Conv2d(pattern_dim, pattern_dim, 1) if use_context else None
        self.codebook = Codebook(num_patterns, pattern_dim)

    def query(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Embed the level's features and, where the level has one, the context.

        Args:
            features: Map of shape ``(B, C, h, w)``.
            context: Embedded semantic map of shape ``(B, P + D, h', w')``; required where ``use_context`` is set.

        Returns:
            h' of shape ``(B, P + D, h, w)``.

        Raises:
            ValueError: If a required context is missing, or one is given that would not be used.
        """
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

    def forward(self, features: Tensor, prototype: Tensor, context: Tensor | None = None) -> Quantized:
        """Quantize the cells of one level.

        Args:
            features: Map of shape ``(B, C, h, w)``.
            prototype: ŷ of shape ``(B, D)``.
            context: See :meth:`query`.

        Returns:
            Patterns ĥ' of shape ``(B, P + D, h, w)``, code indices of shape ``(B, h, w)`` and the commitment.
        """
        anchor, quantized = self.quantize(features, prototype, context)
        codes = quantized.codes.permute(0, 3, 1, 2)
        return Quantized(codes if anchor is None else anchor + codes, quantized.indices, quantized.commitment)

    def quantize(
        self, features: Tensor, prototype: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor | None, Quantized]:
        """Quantize the cells of one level, without putting the pattern together.

        Args:
            features: See :meth:`forward`, like the next ones.
            prototype: ŷ of shape ``(B, D)``.
            context: See :meth:`query`.

        Returns:
            ⟨PE, ŷ⟩ of shape ``(B, P + D, h, w)`` where ``residual`` is set, and what the codebook makes of the cells:
            codes of shape ``(B, h, w, P + D)``, indices and commitment.
        """
        query = self.query(features, context)
        anchor = concept_anchor(prototype, self.position_dim, *query.shape[-2:]) if self.residual else None
        cells = query if anchor is None else query - anchor
        return anchor, self.codebook(cells.permute(0, 2, 3, 1))


def concept_anchor(prototype: Tensor, position_dim: int, height: int, width: int) -> Tensor:
    """Spread ⟨PE, ŷ⟩ over a grid.

    Args:
        prototype: ŷ of shape ``(B, D)``.
        position_dim: Width P of the position encoding.
        height: Rows h of the grid.
        width: Columns w of the grid.

    Returns:
        Tensor of shape ``(B, P + D, h, w)``.
    """
    batch = prototype.shape[0]
    position = sinusoidal_encoding(position_dim, height, width, prototype.dtype, prototype.device)
    spread = prototype[..., None, None].expand(-1, -1, height, width)
    return torch.cat((position.expand(batch, -1, -1, -1), spread), dim=1)
