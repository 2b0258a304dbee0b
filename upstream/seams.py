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
    "anomalib_vqflow.export.mixin": "anomalib.models.image.vqflow.export",
    "anomalib_vqflow.export.normalizing": "anomalib.models.image.vqflow.normalizing",
    "anomalib_vqflow.naming": "anomalib.utils.naming",
    "anomalib_vqflow.whole_file": "anomalib.utils.whole_file",
    "tests": "tests.unit.models.image.vqflow",
    "tests.data": "tests.unit.data.datamodule.image.multi_category",
    "tests.evaluation": "tests.unit.metrics.category",
    "tests.export.test_normalizing": "tests.unit.models.image.vqflow.test_normalizing",
    "tests.test_naming": "tests.unit.utils.test_naming",
}
"""Where our modules go, by the longest prefix of their names."""

PUBLIC = {
    "CategoryEvaluator": "anomalib.metrics",
    "MultiCategory": "anomalib.data",
    "VQFlow": "anomalib.models",
}
"""Where users, and modules outside these packages, import a name from."""

FACES = {"anomalib_vqflow", "anomalib_vqflow.data", "anomalib_vqflow.evaluation", "anomalib_vqflow.export"}
"""Packages whose ``__init__`` is written for anomalib, or left out: theirs name other things."""

ROOTS = {
    "data": ("anomalib_vqflow.data.multi_category", "anomalib_vqflow.evaluation.category_evaluator"),
    "model": ("anomalib_vqflow.lightning_model",),
}
"""What each contribution is made for; the rest follows from imports."""

STANDS_IN = {
    ".".join([PACKAGE, *path.relative_to(STAND_INS).with_suffix("").parts]): path for path in STAND_INS.rglob("*.py")
}
"""Modules that a smaller one in ``stand_ins`` stands in for, and where that is."""

LEFT_OUT = {
    "anomalib_vqflow.backbones.SHIPPED",
    "anomalib_vqflow.backbones.tiny",
    "anomalib_vqflow.backbones.weights_license",
    "anomalib_vqflow.export.pre_processor",
    "anomalib_vqflow.image_files",
}
"""Modules and names that anomalib does without: the backbone that ships with our package, antialiasing in exports,
reading of image files for prediction. They may only be base classes, which are dropped, become others by ``RENAMED``,
or stand where a patch below drops them."""

RENAMED = {
    "AntialiasExportMixin": "FrozenTablesExportMixin",
    "AntialiasPreProcessor": "PreProcessor",
}
"""Names that become others; one of anomalib's is imported already where ours is used."""

PATCHES = {
    # Without our own backbone.
    r"Backbones that ship with the package; importing this registers them with timm\.": "What timm tells of backbones.",
    r'(?s)SHIPPED = "vqflow_tiny"\n""".*?"""\n\n': "",
    r'"SHIPPED", |, "vqflow_tiny", "weights_license"': "",
    r"(?s)\n\ndef weights_license\(.*": "",
    r"  # also registers our own backbone with timm": "",
    r" \(the extra ``lite0``\)": "",
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

FORBIDDEN = r"anomalib[_-]vqflow|vqflow_tiny|configs/|vqflow-\w+|FeatureCache|SyntheticProducts|ruff: ignore"
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
