# SPDX-License-Identifier: Apache-2.0
"""Products that come and go after a training, while all others are predicted as before."""

from .adding import Addition, add_products
from .comparing import Change, compare_models
from .removing import remove_products
from .saving import save_checkpoint

__all__ = ["Addition", "Change", "add_products", "compare_models", "remove_products", "save_checkpoint"]
