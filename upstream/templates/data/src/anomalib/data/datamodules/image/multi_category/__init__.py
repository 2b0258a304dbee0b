# SPDX-License-Identifier: Apache-2.0
"""Many categories as one dataset, for one model.

Example:
    >>> from anomalib.data import MultiCategory
    >>> datamodule = MultiCategory(dataset="MVTecAD", categories=["bottle", "screw"])
    >>> datamodule.categories
    ['bottle', 'screw']
"""

from .multi_category import MultiCategory

__all__ = ["MultiCategory"]
