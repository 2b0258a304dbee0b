# SPDX-License-Identifier: Apache-2.0
"""Hierarchical vector quantization: panel 1 of the paper's framework figure."""

from .codebook import Codebook, Quantized
from .concept import ConceptQuantizer
from .condition import ConditionEncoder, Conditions
from .pattern import PatternQuantizer, SemanticContext
from .position import sinusoidal_encoding

__all__ = [
    "Codebook",
    "ConceptQuantizer",
    "ConditionEncoder",
    "Conditions",
    "PatternQuantizer",
    "Quantized",
    "SemanticContext",
    "sinusoidal_encoding",
]
