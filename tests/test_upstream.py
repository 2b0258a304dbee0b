# SPDX-License-Identifier: Apache-2.0
"""What upstream/make.py lays into a copy of anomalib's repository is whole, in its forms, and passes its tests there.

Set ``VQFLOW_ANOMALIB_TREE`` to such a copy to run its tests; without, a skeleton is made of the installed anomalib.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anomalib
import pytest
import yaml

from upstream import host, seams
from upstream.make import main, make
from upstream.modules import all_imported, needed, parse
from upstream.rewriting import file_of, place_of
from upstream.selecting import kept_statements

TREE = os.environ.get("VQFLOW_ANOMALIB_TREE")
SUITE = Path(__file__).parent / "tools" / "anomalib_suite.py"
HEADER = re.compile(r"# Copyright \(C\) \d{4} Intel Corporation\n# SPDX-License-Identifier: Apache-2\.0\n\n")
MODEL_CARDS = (
    ":::{grid-item-card} {material-regular}`model_training;1.5em` WinCLIP\n:::\n\n```{toctree}\n./winclip\n```\n"
)
SKELETON = {
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n### Added\n\n### Removed\n",
    "third-party-programs.txt": "1. Encoder\n   SPDX-License-Identifier: MIT\n",
    f"{host.MODEL_DOCS}/index.md": MODEL_CARDS,
    f"{host.DATA_DOCS}/index.md": ":::{grid-item-card} MVTecAD\n:::\n\n```{toctree}\nfolder\nmvtec\n```\n",
    f"{host.METRIC_DOCS}/index.md": ":::{grid-item-card} BinaryPrecisionRecallCurve\n:::\n"
    ":members: Evaluator, BinaryPrecisionRecallCurve, create_anomalib_metric\n",
}
FILES = (
    "src/anomalib/models/image/vqflow/lightning_model.py",
    "src/anomalib/models/image/vqflow/README.md",
    "src/anomalib/data/datamodules/image/multi_category/multi_category.py",
    "src/anomalib/metrics/category/category_evaluator.py",
    "docs/source/images/vqflow/results.jpg",
    f"{host.MODEL_DOCS}/vqflow.md",
    f"{host.DATA_DOCS}/multi_category.md",
    "examples/configs/model/vqflow.yaml",
    "tests/unit/models/image/vqflow/test_torch_model.py",
    "tests/unit/data/datamodule/image/multi_category/test_multi_category.py",
    "tests/unit/metrics/category/test_category_evaluator.py",
)
BUILD = """
import sys
from timm.models import _builder
_builder.load_pretrained = lambda *_, **__: None  # would download
from anomalib.models import get_model, list_models
from omegaconf import OmegaConf
model = get_model(OmegaConf.load(sys.argv[1]).model)
assert "v_q_flow" in list_models()
print(type(model).__module__, sorted(name for name in sys.modules if name.startswith("anomalib_vqflow")))
"""


def skeleton(folder):
    for path, content in SKELETON.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    use_installed(folder)
    return folder


def use_installed(tree):
    """Give a tree the sources of the installed anomalib."""
    shutil.rmtree(tree / "src" / "anomalib", ignore_errors=True)
    source = Path(anomalib.__file__).parent
    shutil.copytree(source, tree / "src" / "anomalib", ignore=shutil.ignore_patterns("__pycache__"))


def environment(tree):
    """Of a process that imports anomalib from a tree, and in which our own package does not register itself."""
    return os.environ | {"PYTHONPATH": str(tree / "src"), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    """A skeleton with both contributions, and the files made or changed."""
    tree = skeleton(tmp_path_factory.mktemp("skeleton"))
    return tree, [path for contribution in ("data", "model") for path in make(tree, contribution)]


def test_a_contribution_is_whole(laid):
    """Sources, tests, pages, configuration and picture are there."""
    tree, made = laid
    assert {tree / path for path in FILES} <= set(made)


def test_sources_compile_and_have_their_headers(laid):
    """So do tests; none imports from our repository."""
    tree, made = laid
    new = [path for path in made if path.suffix == ".py" and str(path.relative_to(tree)) not in EDITED]
    assert len(new) > 100
    for path in new:
        source = path.read_text(encoding="utf-8")
        assert HEADER.match(source), path
        assert "anomalib_vqflow" not in source, path
        compile(source, path, "exec")


def test_the_example_configuration_builds_the_model(laid):
    """It has no data, as theirs; the model comes from anomalib's tree, and nothing of our package is imported."""
    tree, _ = laid
    path = tree / "examples/configs/model/vqflow.yaml"
    assert set(yaml.safe_load(path.read_text())) == {"model", "trainer"}
    command = [sys.executable, "-W", "ignore", "-c", BUILD, str(path)]
    done = subprocess.run(command, env=environment(tree), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "anomalib.models.image.vqflow.lightning_model []"


def test_entries_are_made_once(laid):
    """Laid again, a contribution changes nothing."""
    tree, made = laid
    before = {path: path.read_bytes() for path in made}
    assert main([str(tree)]) == 0
    assert {path: path.read_bytes() for path in made} == before


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("CHANGELOG.md", "### Added\n\n- 🚀 **model**: Add VQ-Flow"),
        ("third-party-programs.txt", "\n2. VQ-Flow model (anomalib.models.image.vqflow)\n"),
        (f"{host.MODEL_DOCS}/index.md", "\n./vqflow\n./winclip\n"),
        (f"{host.DATA_DOCS}/index.md", "\nfolder\nmulti_category\nmvtec\n"),
        (f"{host.METRIC_DOCS}/index.md", "Evaluator, CategoryEvaluator, BinaryPrecisionRecallCurve"),
    ],
)
def test_lists_of_anomalib_name_it(laid, path, entry):
    """Changelog, third-party note, cards, tables of contents."""
    assert entry in (laid[0] / path).read_text(encoding="utf-8")


def test_the_readme_tells_what_was_measured_and_what_not(laid):
    """Its tables are those of docs/results.md; MVTec AD has none."""
    text = (laid[0] / "src/anomalib/models/image/vqflow/README.md").read_text(encoding="utf-8")
    results = (seams.REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("\n") if line.startswith(("| macro", "| pooled"))]
    assert len(rows) == 4
    assert all(row in results for row in rows)
    assert "**Not measured: [MVTec AD]" in text
    assert "{{" not in text


def test_the_model_needs_the_data(tmp_path):
    """Its pull request comes second; the error says so, and nothing is written."""
    tree = skeleton(tmp_path)
    with pytest.raises(ValueError, match="contribution of data"):
        make(tree, "model")
    assert not (tree / "examples").exists()


def test_another_folder_is_refused(tmp_path, capsys):
    """The error names what is missing."""
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "no src/anomalib" in capsys.readouterr().err


def test_a_list_without_a_place_is_named(tmp_path):
    """An entry is not left out in silence if anomalib changes a file."""
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(ValueError, match=r"CHANGELOG\.md has no place"):
        host.add(tmp_path, host.Addition("CHANGELOG.md", host.ADDED, "- new\n"))


def test_modules_follow_from_imports():
    """What a needed module imports is needed, too, or brought by data, left out, or a face."""
    data = needed(seams.ROOTS["data"])
    model = needed(seams.ROOTS["model"], elsewhere=data)
    assert not set(data) & set(model)
    assert {"anomalib_vqflow.torch_model", "anomalib_vqflow.flows.coupling", "anomalib_vqflow.calibration"} <= set(
        model
    )
    away = re.compile(r"\.(report|prediction|model_server|cache|registration|tiny|int8|metadata)")
    assert not any(map(away.search, model))
    known = {*data, *model, *seams.LEFT_OUT, *seams.FACES}
    assert {found.module for module in model for found in all_imported(module)} <= known


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("anomalib_vqflow.flows.coupling", "src/anomalib/models/image/vqflow/flows/coupling.py"),
        ("anomalib_vqflow.flows", "src/anomalib/models/image/vqflow/flows/__init__.py"),
        ("anomalib_vqflow.backbones", "src/anomalib/models/image/vqflow/backbones/__init__.py"),
        ("anomalib_vqflow.export.normalizing", "src/anomalib/models/image/vqflow/normalizing.py"),
        ("anomalib_vqflow.data.masks", "src/anomalib/data/datamodules/image/multi_category/masks.py"),
        ("tests.flows.test_coupling", "tests/unit/models/image/vqflow/flows/test_coupling.py"),
    ],
)
def test_every_module_has_its_place(module, place):
    """The longest prefix decides; packages stay packages."""
    assert file_of(module) == Path(place)
    assert place_of(module).endswith(module.rpartition(".")[2])


def test_tests_that_need_more_are_left_out():
    """Without the model, a data test that trains one is left out with its helper; the others stay."""
    names = [
        getattr(node, "name", "")
        for node in kept_statements(
            "tests.data.test_multi_category", [*needed(seams.ROOTS["data"]), *seams.HELPERS["data"]]
        )
    ]
    assert "vqflow" not in names
    assert "test_two_lines_with_the_same_products" not in names
    assert "test_all_categories_or_chosen_ones" in names


def test_what_is_left_out_by_name_exists():
    """No test is named that was renamed since."""
    tests = {
        node.name
        for module in needed(seams.ROOTS["model"])
        if (seams.REPOSITORY / "tests" / f"test_{module.rpartition('.')[2]}.py").is_file()
        for node in parse(f"tests.test_{module.rpartition('.')[2]}").body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(seams.LEFT_OUT_TESTS) <= tests


@pytest.fixture(scope="module")
def laid_tree(tmp_path_factory):
    """A copy of the user's tree with both contributions; sources older than 2.7 are replaced by the installed ones."""
    tree = tmp_path_factory.mktemp("anomalib") / "anomalib"
    shutil.copytree(TREE, tree, ignore=shutil.ignore_patterns(".git", "application", "__pycache__"))
    version = re.search(r'__version__ = "(\d+)\.(\d+)', (tree / "src/anomalib/__init__.py").read_text(encoding="utf-8"))
    if version is not None and tuple(map(int, version.groups())) < (2, 7):
        use_installed(tree)
    assert main([str(tree)]) == 0
    return tree


@pytest.mark.slow
@pytest.mark.skipif(TREE is None, reason="VQFLOW_ANOMALIB_TREE names no copy of anomalib's repository")
@pytest.mark.parametrize(
    "paths",
    [
        ("tests/unit/models/image/vqflow",),
        (
            "tests/unit/data/datamodule/image/multi_category",
            "tests/unit/metrics/category",
            "tests/unit/utils/test_naming.py",
        ),
        ("tests/unit/metrics/test_anomalib_metric.py", "tests/unit/metrics/test_f1_max.py"),
        ("--doctest-modules", "src/anomalib/models/image/vqflow", "src/anomalib/metrics/category"),
        ("tests/integration/model/test_models.py",),
    ],
    ids=["model", "data", "theirs", "examples", "integration"],
)
def test_tests_pass_in_the_tree(laid_tree, paths):
    """Those of the model and the data, theirs that need neither network nor Parquet, examples in docstrings."""
    # A file of ours, not anomalib's pyproject.toml: its options name plugins that its wheel does not install.
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-W", "ignore", "-q", *paths]
    if paths[0].startswith("tests/integration"):
        command = [sys.executable, str(SUITE), str(laid_tree), "-W", "ignore"]
    done = subprocess.run(
        command, cwd=laid_tree, env=environment(laid_tree), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


EDITED = {addition.path for additions in host.ADDITIONS.values() for addition in additions}
