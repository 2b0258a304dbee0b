# SPDX-License-Identifier: Apache-2.0

"""Backbones that ship with the package; importing this registers them with timm."""

from .tiny import vqflow_tiny

__all__ = ["vqflow_tiny"]
