# SPDX-License-Identifier: Apache-2.0
"""Encoder of the condition of the flows: the pattern of each cell, joined with the prototype."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from anomalib_vqflow.quantization import Concept, PatternQuantizer, SemanticContext, make_anchor

from .discrete import DiscreteCondition


class Conditions(NamedTuple):
    """What the flows are conditioned on."""

    details: list[DiscreteCondition]  # [ĥ'_i; ŷ], (B, P + 2 D, h_i, w_i), one per detail level
    semantic: DiscreteCondition  # [ĥ'_4; ŷ], (B, P + 2 D, h, w)
    commitment: Tensor  # (), summed over the pattern codebooks


class ConditionEncoder(nn.Module):
    r"""Quantize the patterns of all levels and join each with the prototype, :math:`[\hat h'_i; \hat y]`.

    .. math:: \hat h' = \langle PE, \hat y \rangle + Q_{csp}\big(h' - \langle PE, \hat y \rangle\big)

    Without patterns, the condition is position and prototype, ⟨PE, ŷ⟩.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, panel 1, https://arxiv.org/abs/2409.00942. The figure
    conditions on ĥ'_i alone; joining ŷ, and the codebook of the semantic level, follow the paper's release.

    Args:
        detail_channels: Channels of each detail level.
        semantic_channels: Channels of the semantic level.
        concept_dim: Width D of the prototypes.
        position_dim: Width P of the position encoding, a multiple of 4; 0 leaves the position out.
        num_patterns: Codes per level.
        residual: Whether patterns are quantized against position and prototype.
        use_patterns: Whether there are patterns at all.
        use_semantic: Whether the semantic level's pattern is needed; without, its condition is ⟨PE, ŷ, ŷ⟩.

    Example:
        >>> import torch
        >>> from anomalib_vqflow.quantization import ConceptQuantizer
        >>> encoder = ConditionEncoder(
        ...     detail_channels=[8, 12],
        ...     semantic_channels=16,
        ...     concept_dim=6,
        ...     position_dim=4,
        ...     num_patterns=5,
        ...     residual=True,
        ...     use_patterns=True,
        ...     use_semantic=True,
        ... )
        >>> details, semantic = [torch.randn(2, 8, 4, 4), torch.randn(2, 12, 2, 2)], torch.randn(2, 16, 2, 2)
        >>> concept = ConceptQuantizer(channels=16, concept_dim=6, num_concepts=4, novelty=0.0)(semantic)
        >>> conditions = encoder(details, semantic, concept)
        >>> [tuple(c.shape) for c in conditions.details], tuple(conditions.semantic.shape)
        ([(2, 16, 4, 4), (2, 16, 2, 2)], (2, 16, 2, 2))
    """

    def __init__(
        self,
        *,
        detail_channels: Sequence[int],
        semantic_channels: int,
        concept_dim: int,
        position_dim: int,
        num_patterns: int,
        residual: bool,
        use_patterns: bool,
        use_semantic: bool,
    ) -> None:
        super().__init__()
        self.position_dim = position_dim
        self.residual = residual
        self.use_patterns = use_patterns
        pattern_dim = position_dim + concept_dim
        self.condition_dim = pattern_dim + concept_dim if use_patterns else pattern_dim
        self.context = SemanticContext(channels=semantic_channels, pattern_dim=pattern_dim) if use_patterns else None
        self.quantizers = nn.ModuleList(
            PatternQuantizer(
                channels=channels,
                pattern_dim=pattern_dim,
                num_patterns=num_patterns,
                use_context=True,
                residual=residual,
            )
            for channels in (detail_channels if use_patterns else ())
        )
        self.semantic_quantizer = (
            PatternQuantizer(
                channels=semantic_channels,
                pattern_dim=pattern_dim,
                num_patterns=num_patterns,
                use_context=False,
                residual=residual,
            )
            if use_patterns and use_semantic
            else None
        )

    def forward(self, details: Sequence[Tensor], semantic: Tensor, concept: Concept) -> Conditions:
        """Encode the conditions of a batch.

        Args:
            details: h_i of shape ``(B, C_i, h_i, w_i)`` per detail level.
            semantic: h_4 of shape ``(B, C, h, w)``.
            concept: Concept of each image.

        Returns:
            The conditions.
        """
        context = None if self.context is None else self.context(semantic)
        quantizers = cast("list[PatternQuantizer | None]", [*self.quantizers] or [None] * len(details))
        conditions = [
            self._encode(quantizer, h, concept, context) for quantizer, h in zip(quantizers, details, strict=True)
        ]
        conditions.append(self._encode(self.semantic_quantizer, semantic, concept, None))
        commitments = [semantic.new_zeros(()) if c.patterns is None else c.patterns.commitment for c in conditions]
        return Conditions(conditions[:-1], conditions[-1], torch.stack(commitments).sum())

    def _encode(
        self, quantizer: PatternQuantizer | None, features: Tensor, concept: Concept, context: Tensor | None
    ) -> DiscreteCondition:
        """Encode the condition of a level."""
        anchor = make_anchor(concept, self.position_dim, (features.shape[-2], features.shape[-1]))
        patterns = None if quantizer is None else quantizer(features, anchor, context)
        return DiscreteCondition(
            anchor, patterns, anchored=self.residual or quantizer is None, joined=self.use_patterns
        )
