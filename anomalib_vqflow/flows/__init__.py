# SPDX-License-Identifier: Apache-2.0
"""Pattern-conditional flows and concept-aware distribution: panels 2 and 3 of the paper's framework figure."""

from .added import AddedConcepts
from .coupling import ConditionalCoupling
from .fusion import FusionCoupling
from .gaussian import ConceptGaussian
from .multi_scale import MultiScaleFlow
from .noise import Noise
from .whitening import Moments, Whitening

__all__ = [
    "AddedConcepts",
    "ConceptGaussian",
    "ConditionalCoupling",
    "FusionCoupling",
    "Moments",
    "MultiScaleFlow",
    "Noise",
    "Whitening",
]
