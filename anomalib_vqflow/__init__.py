# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow for anomalib: one normalizing flow, conditioned on vector-quantized concepts, for many products at once.

Importing this package costs nothing: torch and anomalib are imported when one of the names below is first used.
It also makes anomalib find the model and the datamodules by their short names (see :mod:`.registration`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register

if TYPE_CHECKING:
    from .cache import FeatureCache
    from .data import MultiCategory, SyntheticProducts
    from .evaluation import CategoryEvaluator
    from .ignoring import IgnoreRegions
    from .lightning_model import VQFlow
    from .loss import VQFlowLoss
    from .post_processor import SeparatingPostProcessor
    from .torch_model import VQFlowModel

__version__ = "0.2.0"

__all__ = [
    "CategoryEvaluator",
    "FeatureCache",
    "IgnoreRegions",
    "MultiCategory",
    "SeparatingPostProcessor",
    "SyntheticProducts",
    "VQFlow",
    "VQFlowLoss",
    "VQFlowModel",
    "__version__",
]

_MODULES = {
    "CategoryEvaluator": ".evaluation",
    "FeatureCache": ".cache",
    "IgnoreRegions": ".ignoring",
    "MultiCategory": ".data",
    "SeparatingPostProcessor": ".post_processor",
    "SyntheticProducts": ".data",
    "VQFlow": ".lightning_model",
    "VQFlowLoss": ".loss",
    "VQFlowModel": ".torch_model",
}


def __getattr__(name: str) -> object:
    """Import a public class when it is first asked for.

    Args:
        name: Attribute of this package.

    Returns:
        The class.

    Raises:
        AttributeError: If there is no public class of that name.
    """
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


register()
