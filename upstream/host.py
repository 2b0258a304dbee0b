# SPDX-License-Identifier: Apache-2.0
"""The files of anomalib's tree that name every model or datamodule, and what is added to them."""

import re
from pathlib import Path
from typing import NamedTuple

MODEL_DOCS = "docs/source/markdown/guides/reference/models/image"
DATA_DOCS = "docs/source/markdown/guides/reference/data/datamodules/image"
METRIC_DOCS = "docs/source/markdown/guides/reference/metrics"
ADDED = r"(?<=## \[Unreleased\]\n\n### Added\n\n)"


class Addition(NamedTuple):
    """A text that is put into a file before the first place where a pattern matches."""

    path: str
    before: str
    text: str


MODEL = [
    Addition(
        "src/anomalib/models/image/__init__.py",
        r"    - :class:`WinClip`",
        "    - :class:`VQFlow`: Vector-Quantized Conditional Flow for Many Categories\n",
    ),
    Addition("src/anomalib/models/image/__init__.py", r"from \.winclip import", "from .vqflow import VQFlow\n"),
    Addition("src/anomalib/models/image/__init__.py", r'    "WinClip",\n', '    "VQFlow",\n'),
    Addition(
        "src/anomalib/models/__init__.py",
        r"    - WinCLIP \(",
        "    - VQ-Flow (:class:`anomalib.models.image.VQFlow`)\n",
    ),
    Addition("src/anomalib/models/__init__.py", r"    WinClip,\n\)", "    VQFlow,\n"),
    Addition("src/anomalib/models/__init__.py", r'    "WinClip",\n\]', '    "VQFlow",\n'),
    Addition(
        f"{MODEL_DOCS}/index.md",
        r":::\{grid-item-card\}[^\n]* WinCLIP\n",
        ":::{grid-item-card} {material-regular}`model_training;1.5em` VQ-Flow\n:link: ./vqflow\n:link-type: doc\n\n"
        "Taming Normalizing Flows for Multi-Class Anomaly Detection via Hierarchical Vector Quantization\n:::\n\n",
    ),
    Addition(f"{MODEL_DOCS}/index.md", r"\./winclip\n```", "./vqflow\n"),
    Addition("CHANGELOG.md", ADDED, "- 🚀 **model**: Add VQ-Flow, one normalizing flow for many categories\n"),
]

DATA = [
    Addition(
        "src/anomalib/data/datamodules/image/__init__.py",
        r"- ``MVTecAD``",
        "- ``MultiCategory``: Many categories, of one dataset or several, as one\n",
    ),
    Addition(
        "src/anomalib/data/datamodules/image/__init__.py",
        r"from \.mvtec_loco import",
        "from .multi_category import MultiCategory\n",
    ),
    Addition("src/anomalib/data/datamodules/image/__init__.py", r'    "MVTecAD",\n', '    "MultiCategory",\n'),
    Addition("src/anomalib/data/datamodules/__init__.py", r"    MVTecAD,\n", "    MultiCategory,\n"),
    Addition("src/anomalib/data/datamodules/__init__.py", r'    "MVTecAD",\n', '    "MultiCategory",\n'),
    Addition("src/anomalib/data/__init__.py", r"    MVTecAD,\n", "    MultiCategory,\n"),
    Addition("src/anomalib/data/__init__.py", r'    "MVTecAD",\n', '    "MultiCategory",\n'),
    Addition(
        "src/anomalib/metrics/__init__.py",
        r"    - ``Evaluator``",
        "    - ``CategoryEvaluator``: Reports metrics per category, their mean, and over all images\n",
    ),
    Addition(
        "src/anomalib/metrics/__init__.py",
        r"from \.evaluator import",
        "from .category import CategoryEvaluator\n",
    ),
    Addition("src/anomalib/metrics/__init__.py", r'    "create_anomalib_metric",', '    "CategoryEvaluator",\n'),
    Addition(
        f"{DATA_DOCS}/index.md",
        r":::\{grid-item-card\} MVTecAD\n",
        ":::{grid-item-card} MultiCategory\n:link: multi_category\n:link-type: doc\n\n"
        "Many categories, of one dataset or several, for one model.\n:::\n\n",
    ),
    Addition(f"{DATA_DOCS}/index.md", r"(?<=\n)mvtec\n", "multi_category\n"),
    Addition(
        f"{METRIC_DOCS}/index.md",
        r":::\{grid-item-card\} BinaryPrecisionRecallCurve\n",
        ":::{grid-item-card} CategoryEvaluator\n:link: anomalib.metrics.CategoryEvaluator\n:link-type: doc\n\n"
        "Reports image and pixel metrics per category, as their mean, and over all images under one threshold.\n"
        ":::\n\n",
    ),
    Addition(f"{METRIC_DOCS}/index.md", r"BinaryPrecisionRecallCurve, create_anomalib_metric", "CategoryEvaluator, "),
    Addition(
        "CHANGELOG.md",
        ADDED,
        "- 🚀 **data**: Add `MultiCategory`, a datamodule of many categories, and `CategoryEvaluator`, which reports "
        "metrics per category\n",
    ),
]

ADDITIONS = {"data": DATA, "model": MODEL}

THIRD_PARTY = "third-party-programs.txt"
THIRD_PARTY_NOTE = """\
{number}. VQ-Flow model (anomalib.models.image.vqflow)
    Written from the paper (arXiv:2409.00942); holds no code of its authors' release, nor of other third parties
    SPDX-License-Identifier: Apache-2.0
"""


def add(tree: Path, addition: Addition) -> Path:
    """Put a text into a file of the tree, if it is not there yet.

    Args:
        tree: anomalib's tree.
        addition: What to put where.

    Returns:
        Path of the file.

    Raises:
        ValueError: If there is no such file, or no such place in it.
    """
    path = tree / addition.path
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    start = "\n" if addition.text.endswith("\n") else ""  # whole lines, or a part of one
    if f"{start}{addition.text}" in f"\n{content}":
        return path
    found = re.search(addition.before, content)
    if found is None:
        msg = f"{path} has no place before {addition.before!r} for {addition.text!r}; adapt upstream/host.py."
        raise ValueError(msg)
    gap = "\n" if content.startswith("###", found.start()) else ""  # the list of the changelog was empty
    path.write_text(content[: found.start()] + addition.text + gap + content[found.start() :], encoding="utf-8")
    return path


def add_third_party_note(tree: Path) -> Path:
    """Say in the tree's list of third-party programs, by the next number, that the model holds none.

    Args:
        tree: anomalib's tree.

    Returns:
        Path of the list.

    Raises:
        ValueError: If there is no such list.
    """
    path = tree / THIRD_PARTY
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", content, flags=re.MULTILINE)]
    if not numbers:
        msg = f"{path} lists nothing by number; adapt upstream/host.py."
        raise ValueError(msg)
    if "anomalib.models.image.vqflow" not in content:
        note = THIRD_PARTY_NOTE.format(number=max(numbers) + 1)
        path.write_text(f"{content.rstrip()}\n\n{note}", encoding="utf-8")
    return path
