# SPDX-License-Identifier: Apache-2.0
"""Conditions of the flows: the patterns of all levels joined with the prototype."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from anomalib_vqflow.discrete import Concepts, DiscreteCondition

from .pattern import PatternQuantizer, SemanticContext
from .position import axis_encoding


class Conditions(NamedTuple):
    """What the flows are conditioned on."""

    details: list[DiscreteCondition]  # [ĥ'_i; ŷ], (B, P + 2 D, h_i, w_i), one per detail level
    semantic: DiscreteCondition  # [ĥ'_4; ŷ], (B, P + 2 D, h, w)
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
        use_semantic: Whether the semantic level's pattern is needed; without, its condition is ⟨PE, ŷ, ŷ⟩.

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
        self.residual = residual
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

    def forward(
        self, details: Sequence[Tensor], semantic: Tensor, prototype: Tensor, concepts: Concepts | None = None
    ) -> Conditions:
        """Encode the conditions of a batch.

        Args:
            details: h_i of shape ``(B, C_i, h_i, w_i)`` per detail level.
            semantic: h_4 of shape ``(B, C, h, w)``.
            prototype: ŷ of shape ``(B, D)``.
            concepts: In inference, all prototypes of the model and those of the images, so that the flows may keep
                what they compute from them. None in training.

        Returns:
            The conditions.
        """
        context = None if self.context is None else self.context(semantic)
        quantizers = cast("list[PatternQuantizer | None]", [*self.quantizers] or [None] * len(details))
        levels = [
            self._encode(quantizer, h, prototype, context, concepts)
            for quantizer, h in zip(quantizers, details, strict=True)
        ]
        levels.append(self._encode(self.semantic_quantizer, semantic, prototype, None, concepts))
        conditions = [condition for condition, _ in levels]
        commitment = torch.stack([commitment for _, commitment in levels]).sum()
        return Conditions(conditions[:-1], conditions[-1], commitment)

    def _encode(
        self,
        quantizer: PatternQuantizer | None,
        features: Tensor,
        prototype: Tensor,
        context: Tensor | None,
        concepts: Concepts | None,
    ) -> tuple[DiscreteCondition, Tensor]:
        """Encode the condition of a level, and tell its commitment."""
        columns, rows = (
            axis_encoding(self.position_dim, size, prototype.dtype, prototype.device)
            for size in (features.shape[-1], features.shape[-2])
        )
        lasting = concepts is not None
        if concepts is None:
            concepts = Concepts(prototype, torch.arange(prototype.shape[0], device=prototype.device))
        codes, indices, pattern, commitment = None, None, None, prototype.new_zeros(())
        if quantizer is not None:
            anchor, quantized = quantizer.quantize(features, prototype, context)
            codes, indices, commitment = quantizer.codebook.codes, quantized.indices, quantized.commitment
            if self.training:
                codes = codes.clone()  # the codebook may move on before the gradients are computed
                pattern = quantized.codes.permute(0, 3, 1, 2)
                pattern = pattern if anchor is None else anchor + pattern
        condition = DiscreteCondition(
            concepts,
            columns,
            rows,
            codes,
            indices,
            pattern,
            anchored=self.residual or quantizer is None,
            joined=self.use_patterns,
            lasting=lasting,
        )
        return condition, commitment
