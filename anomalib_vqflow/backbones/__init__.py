# SPDX-License-Identifier: Apache-2.0

"""Backbones that ship with the package; importing this registers them with timm."""

from .tiny import vqflow_tiny

SHIPPED = "vqflow_tiny"
"""Name of the backbone whose weights come with the package."""

__all__ = ["SHIPPED", "vqflow_tiny"]
