# SPDX-License-Identifier: Apache-2.0
"""Data for training on many product categories at once."""

from .files import find_images
from .multi_category import MultiCategory
from .reading import read_image
from .synthetic_products import SyntheticProducts

__all__ = ["MultiCategory", "SyntheticProducts", "find_images", "read_image"]
