# SPDX-License-Identifier: Apache-2.0
"""What becomes of our names in anomalib's tree: places, what is left out, and what stands in for it."""

from pathlib import Path

PACKAGE = "anomalib_vqflow"
REPOSITORY = Path(__file__).parents[1]
STAND_INS = Path(__file__).parent / "stand_ins"
TEMPLATES = Path(__file__).parent / "templates"

PLACES = {
    "anomalib_vqflow": "anomalib.models.image.vqflow",
    "anomalib_vqflow.data": "anomalib.data.datamodules.image.multi_category",
    "anomalib_vqflow.evaluation": "anomalib.metrics.category",
    "anomalib_vqflow.naming": "anomalib.utils.naming",
    "tests": "tests.unit.models.image.vqflow",
    "tests.data": "tests.unit.data.datamodule.image.multi_category",
    "tests.evaluation": "tests.unit.metrics.category",
    "tests.test_naming": "tests.unit.utils.test_naming",
}
"""Where our modules go, by the longest prefix of their names."""

PUBLIC = {
    "CategoryEvaluator": "anomalib.metrics",
    "MultiCategory": "anomalib.data",
    "VQFlow": "anomalib.models",
}
"""Where users, and modules outside these packages, import a name from."""

FACES = {"anomalib_vqflow", "anomalib_vqflow.data", "anomalib_vqflow.evaluation"}
"""Packages whose ``__init__`` is written for anomalib: theirs name other things."""

ROOTS = {
    "data": ("anomalib_vqflow.data.multi_category", "anomalib_vqflow.evaluation.category_evaluator"),
    "model": ("anomalib_vqflow.lightning_model",),
}
"""What each contribution is made for; the rest follows from imports."""

STANDS_IN = {f"{PACKAGE}.{path.stem}" for path in STAND_INS.glob("*.py")}
"""Modules that a smaller one in ``stand_ins`` stands in for."""

LEFT_OUT = {"anomalib_vqflow.backbones", "anomalib_vqflow.image_files"}
"""Modules that anomalib does without: the backbone that ships with our package, reading of image files for prediction.
Their names may only be base classes, which are dropped, or stand where a patch below drops them."""

RENAMED = {
    "AntialiasExportMixin": ("", "FrozenTablesExportMixin"),
    "AntialiasPreProcessor": ("anomalib.pre_processing", "PreProcessor"),
}
"""Names that become others, in the module that imports them from its old place or, if given, from another one."""

PATCHES = {
    # Without our own backbone.
    r"Either pass pre_trained=": "Pass pre_trained=",
    r", or choose \"\s*f\"backbone='\{backbones\.SHIPPED\}', whose weights come with this package": "",
    r", or ``vqflow_tiny`` from this package": "",
    # Without our configurations, commands and cache.
    r"; the published\s+configuration is in ``configs/mvtec_ad\.yaml``": "",
    r"a batch of :class:`\.FeatureCache`": "a batch that carries them",
    r"In NumPy, because ``vqflow-predict`` sets thresholds without torch\.\n\n": "",
    # As anomalib's linter has it.
    r"(?m)^from torch\.nn import functional as F$": "from torch.nn import functional as F  # noqa: N812",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{GREEK SMALL LETTER ALPHA}": "alpha",
    # We are anomalib.
    r'\{"anomalib", "anomalib_vqflow"\}': '{"anomalib"}',
}
"""Patterns in sources, and what takes their place. What they miss, ``FORBIDDEN`` finds."""

FORBIDDEN = r"anomalib[_-]vqflow|vqflow_tiny|configs/|vqflow-\w+|FeatureCache|SyntheticProducts"
"""What no generated file may hold."""

HELPERS = {
    "data": ("tests.data.anomalib_folders", "tests.data.folders"),
    "model": (
        "tests.condition.conditions",
        "tests.conftest",
        "tests.flows.bijection",
        "tests.gradients",
        "tests.quantization.concepts",
        "tests.tiny",
        "tests.training",
    ),
}
"""What tests of a contribution may share; ``tests.reference`` needs recordings that we may not give."""

FIXTURES = ("root", "trained")
"""What ``tests.conftest`` gives by name."""

LEFT_OUT_TESTS = {
    "test_a_training_that_failed_says_what_its_checkpoint_holds": "a checkpoint does not tell that it is incomplete",
}
"""Tests of what anomalib's tree does not have, by name, each with the reason."""
