# SPDX-License-Identifier: Apache-2.0
"""Metrics per category, as their mean, and over all images together.

Example:
    >>> from anomalib.metrics import CategoryEvaluator
    >>> from anomalib.models import Padim
    >>> model = Padim(evaluator=CategoryEvaluator())  # doctest: +SKIP
"""

from .category_evaluator import CategoryEvaluator

__all__ = ["CategoryEvaluator"]
