# SPDX-License-Identifier: Apache-2.0

"""The pretext task that trained ``vqflow_tiny``: recognize random formulas in procedural scenes, cell by cell."""

from .bank import FORMULAS, bank, pictures
from .figures import FIGURES
from .heads import PretextHeads, Targets
from .scenes import Scenes, compose
from .textures import TEXTURES

__all__ = ["FIGURES", "FORMULAS", "TEXTURES", "PretextHeads", "Scenes", "Targets", "bank", "compose", "pictures"]
