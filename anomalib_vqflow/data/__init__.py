# SPDX-License-Identifier: Apache-2.0
"""Data for training on many product categories at once.

The names below are imported when first used: what only looks at names of files (``files``, ``folder_names``) serves the
command for prediction, too, which runs without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .files import find_images
    from .multi_category import MultiCategory
    from .reading import read_image
    from .synthetic_products import SyntheticProducts

__all__ = ["MultiCategory", "SyntheticProducts", "find_images", "read_image"]

_MODULES = {
    "MultiCategory": ".multi_category",
    "SyntheticProducts": ".synthetic_products",
    "find_images": ".files",
    "read_image": ".reading",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for; raises AttributeError if there is none."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value
