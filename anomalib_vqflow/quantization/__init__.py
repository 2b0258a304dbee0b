# SPDX-License-Identifier: Apache-2.0
"""Hierarchical vector quantization: panel 1 of the paper's framework figure."""

from .anchor import Anchor, make_anchor
from .codebook import Codebook, Quantized
from .concept import Concept, ConceptQuantizer
from .pattern import PatternQuantizer, Patterns, SemanticContext

__all__ = [
    "Anchor",
    "Codebook",
    "Concept",
    "ConceptQuantizer",
    "PatternQuantizer",
    "Patterns",
    "Quantized",
    "SemanticContext",
    "make_anchor",
]
