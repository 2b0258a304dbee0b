# SPDX-License-Identifier: Apache-2.0

"""The procedural scenes that trained ``vqflow_tiny``."""

from .bank import FORMULAS, bank, pictures
from .figures import FIGURES
from .scenes import compose
from .textures import TEXTURES

__all__ = ["FIGURES", "FORMULAS", "TEXTURES", "bank", "compose", "pictures"]
