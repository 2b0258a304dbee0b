# SPDX-License-Identifier: Apache-2.0
"""Pattern-conditional flows and concept-aware distribution: panels 2 and 3 of the paper's framework figure."""

from .coupling import ConditionalCoupling
from .fusion import FusionCoupling
from .gaussian import ConceptGaussian
from .multi_scale import MultiScaleFlow
from .noise import Noise
from .whitening import Moments, Whitening

__all__ = [
    "ConceptGaussian",
    "ConditionalCoupling",
    "FusionCoupling",
    "Moments",
    "MultiScaleFlow",
    "Noise",
    "Whitening",
]
