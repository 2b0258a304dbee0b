# SPDX-License-Identifier: Apache-2.0

"""Backbones that ship with the package; importing this registers them with timm."""

import timm

from .tiny import vqflow_tiny

SHIPPED = "vqflow_tiny"
"""Name of the backbone whose weights come with the package."""

__all__ = ["SHIPPED", "vqflow_tiny", "weights_license"]


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
