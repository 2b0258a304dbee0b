# SPDX-License-Identifier: Apache-2.0
"""Generator of procedural products with defects: images for a first run, a demonstration or a test."""

from .catalog import CATEGORIES, defects
from .dataset import GENERATOR_VERSION, SetArguments, generate
from .render import Rendered, render

__all__ = ["CATEGORIES", "GENERATOR_VERSION", "Rendered", "SetArguments", "defects", "generate", "render"]
