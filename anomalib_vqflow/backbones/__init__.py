# SPDX-License-Identifier: Apache-2.0

"""Backbones that ship with the package; importing this registers them with timm."""

import timm

from .tiny import vqflow_tiny

SHIPPED = "vqflow_tiny"
"""Name of the backbone whose weights come with the package."""

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
"""Apache-2.0, code and weights."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

__all__ = ["DEFAULT_BACKBONE", "SHIPPED", "normalization", "vqflow_tiny", "weights_license"]


def normalization(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tell how the images of a backbone are normalized.

    Args:
        backbone: Name of a timm model.

    Returns:
        Mean and standard deviation per channel, for values in [0, 1], as timm gives them; ImageNet's for a model that
        timm does not know.

    Example:
        >>> normalization("tf_efficientnet_lite0")
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    cfg = timm.get_pretrained_cfg(backbone)
    return IMAGENET if cfg is None else (tuple(cfg.mean), tuple(cfg.std))


def weights_license(backbone: str) -> str | None:
    """Tell the license of timm's weights of a backbone.

    Args:
        backbone: Name of a timm model.

    Returns:
        Name of the license, as timm gives it; None if it gives none.

    Example:
        >>> weights_license("convnextv2_base")
        'cc-by-nc-4.0'
    """
    cfg = timm.get_pretrained_cfg(backbone)
    return None if cfg is None else cfg.license
