# SPDX-License-Identifier: Apache-2.0
"""Conditions of the flows: the patterns of all levels joined with the prototype."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .pattern import PatternQuantizer, SemanticContext, concept_anchor


class Conditions(NamedTuple):
    """What the flows are conditioned on."""

    details: list[Tensor]  # [ĥ'_i; ŷ], (B, P + 2 D, h_i, w_i), one per detail level
    semantic: Tensor  # [ĥ'_4; ŷ], (B, P + 2 D, h, w)
    commitment: Tensor  # (), summed over the pattern codebooks


class ConditionEncoder(nn.Module):
    """Quantize the patterns of all levels and join each with the prototype, [ĥ'_i; ŷ].

    Without patterns, the condition is position and prototype, ⟨PE, ŷ⟩.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, panel 1, https://arxiv.org/abs/2409.00942. The figure
    conditions on ĥ'_i alone; joining ŷ, and the codebook of the semantic level, follow the paper's release.

    Args:
        detail_channels: Channels of each detail level.
        semantic_channels: Channels of the semantic level.
        concept_dim: Width D of the prototypes.
        position_dim: Width P of the position encoding.
        num_patterns: Codes per level.
        residual: Whether patterns are quantized against position and prototype.
        use_patterns: Whether there are patterns at all.
        use_semantic: Whether the semantic level's pattern is needed; without, its condition is ⟨PE, ŷ, 0⟩.

    Example:
        >>> import torch
        >>> encoder = ConditionEncoder([8, 12], 16, concept_dim=6, position_dim=4, num_patterns=5)
        >>> details = [torch.randn(2, 8, 4, 4), torch.randn(2, 12, 2, 2)]
        >>> conditions = encoder(details, torch.randn(2, 16, 2, 2), torch.randn(2, 6))
        >>> [tuple(c.shape) for c in conditions.details], tuple(conditions.semantic.shape)
        ([(2, 16, 4, 4), (2, 16, 2, 2)], (2, 16, 2, 2))
    """

    def __init__(
        self,
        detail_channels: Sequence[int],
        semantic_channels: int,
        concept_dim: int,
        position_dim: int,
        num_patterns: int,
        residual: bool = True,
        use_patterns: bool = True,
        use_semantic: bool = True,
    ) -> None:
        super().__init__()
        self.position_dim = position_dim
        self.use_patterns = use_patterns
        pattern_dim = position_dim + concept_dim
        self.condition_dim = pattern_dim + concept_dim if use_patterns else pattern_dim
        self.context = SemanticContext(semantic_channels, pattern_dim) if use_patterns else None
        self.quantizers = nn.ModuleList(
            PatternQuantizer(channels, concept_dim, position_dim, num_patterns, use_context=True, residual=residual)
            for channels in (detail_channels if use_patterns else ())
        )
        self.semantic_quantizer = (
            PatternQuantizer(semantic_channels, concept_dim, position_dim, num_patterns, residual=residual)
            if use_patterns and use_semantic
            else None
        )

    def forward(self, details: Sequence[Tensor], semantic: Tensor, prototype: Tensor) -> Conditions:
        """Encode the conditions of a batch.

        Args:
            details: h_i of shape ``(B, C_i, h_i, w_i)`` per detail level.
            semantic: h_4 of shape ``(B, C, h, w)``.
            prototype: ŷ of shape ``(B, D)``.

        Returns:
            The conditions.
        """
        if self.context is None:
            anchors = [concept_anchor(prototype, self.position_dim, *h.shape[-2:]) for h in (*details, semantic)]
            return Conditions(anchors[:-1], anchors[-1], prototype.new_zeros(()))
        context = self.context(semantic)
        patterns = [quantizer(h, prototype, context) for quantizer, h in zip(self.quantizers, details, strict=True)]
        commitment = torch.stack([pattern.commitment for pattern in patterns]).sum()
        conditions = [_join(pattern.codes, prototype) for pattern in patterns]
        if self.semantic_quantizer is None:
            anchor = concept_anchor(prototype, self.position_dim, *semantic.shape[-2:])
            return Conditions(conditions, _join(anchor, torch.zeros_like(prototype)), commitment)
        pattern = self.semantic_quantizer(semantic, prototype)
        return Conditions(conditions, _join(pattern.codes, prototype), commitment + pattern.commitment)


def _join(pattern: Tensor, prototype: Tensor) -> Tensor:
    spread = prototype[..., None, None].expand(-1, -1, *pattern.shape[-2:])  # (B, D, h, w)
    return torch.cat((pattern, spread), dim=1)
