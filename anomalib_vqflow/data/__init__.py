# SPDX-License-Identifier: Apache-2.0
"""Data for training on many product categories at once."""

from .multi_category import MultiCategory
from .synthetic_products import SyntheticProducts

__all__ = ["MultiCategory", "SyntheticProducts"]
