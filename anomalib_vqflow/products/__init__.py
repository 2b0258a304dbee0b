# SPDX-License-Identifier: Apache-2.0
"""Products that come and go after a training, while all others are predicted as before."""

from .adding import Addition, add_products
from .removing import remove_products
from .saving import save_checkpoint

__all__ = ["Addition", "add_products", "remove_products", "save_checkpoint"]
