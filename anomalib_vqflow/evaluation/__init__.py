# SPDX-License-Identifier: Apache-2.0
"""Metrics per category, as their mean, and over all images together."""

from .category_evaluator import CategoryEvaluator

__all__ = ["CategoryEvaluator"]
