# SPDX-License-Identifier: Apache-2.0
"""What the README and docs/ say can be done: commands, Python and YAML run, files and sections are there."""

import argparse
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser

from anomalib_vqflow import VQFlow
from anomalib_vqflow.checkpoint import MAY_CHANGE

from .data.folders import make_category
from .tiny import tiny_root

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "anomalib_vqflow|backbone_training|benchmarks|configs|docs|examples|tests"
SETUP = ("venv", ".ci/")  # commands that install, or run the tests themselves
MAX_README_WORDS = 1500
MODULES = {
    "vqflow-predict": "anomalib_vqflow.prediction",
    "vqflow-products": "anomalib_vqflow.products",
    "vqflow-report": "anomalib_vqflow.report",
    "vqflow-repository": "anomalib_vqflow.model_server",
}
NONE = "\N{EN DASH}"  # in the table of arguments

# Instead of running, each command is printed; vqflow-config, whose output goes into others, is real; it makes no file.
RECORD = r"""
set -eu
record() { printf '%q ' "$@"; echo; }
anomalib() { record anomalib "$@"; }
python() { record python "$@"; }
vqflow-report() { record vqflow-report "$@"; }
vqflow-predict() { record vqflow-predict "$@"; }
vqflow-products() { record vqflow-products "$@"; }
vqflow-repository() { record vqflow-repository "$@"; }
vqflow-config() {
    set -- "${1/#results*/light_cpu}"
    "$PYTHON" -c 'from anomalib_vqflow.configuration import main; main()' "$@"
}
"""
# Commands run, on small images, for an epoch, and with the backbone that needs no download.
SMALL = r"""
set -eux
anomalib() {
    local small=(--model.backbone vqflow_tiny --model.input_size '[64,64]')
    if [ "$1" = train ]; then
        small+=(--data.train_batch_size 4 --data.num_workers 0)
        small+=(--trainer.max_epochs 1)
    fi
    "$(dirname "$PYTHON")/anomalib" "$@" "${small[@]}"
}
python() {
    local small=()
    if [ "$1" = examples/train.py ]; then small=(--backbone vqflow_tiny --input-size 64 --epochs 1); fi
    "$PYTHON" "$@" "${small[@]}"
}
vqflow-report() { "$PYTHON" -m anomalib_vqflow.report "$@"; }
vqflow-predict() { "$PYTHON" -m anomalib_vqflow.prediction "$@"; }
vqflow-config() { "$PYTHON" -c 'from anomalib_vqflow.configuration import main; main()' "$@"; }
"""

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def read(document):
    return re.sub(r"<!--.*?-->", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(document), re.MULTILINE | re.DOTALL)


def prose(document):
    return re.sub(r"^```.*?^```", "", read(document), flags=re.MULTILINE | re.DOTALL)


def bash(script, folder):
    variables = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = {"cwd": folder, "env": variables, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", script], check=False, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


def shell_blocks(document):
    return [block for block in blocks(document, "bash") if not any(word in block for word in SETUP)]


def commands(document):
    """List the commands of a document, those in its prose, too, as the shell hands them to the programs."""
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(document))]
    inline = [code for code in inline if re.match(r"(anomalib \w+ --|python \w+/|vqflow-(predict|repor\w+) )", code)]
    whole = [code for code in inline if "..." not in code]
    lines = bash(RECORD + "\n".join([*shell_blocks(document), *whole]), ROOT).splitlines()
    return [shlex.split(line) for line in lines]


class ParsedError(Exception):
    """A command line was understood."""


def parse_known_args(parser, args=None, namespace=None):
    PARSE(parser, args, namespace)
    raise ParsedError


def parse_args(parser, args=None, namespace=None):
    _, rest = PARSE(parser, args, namespace)
    if rest:
        parser.error(f"unknown: {rest}")
    raise ParsedError


PARSE = argparse.ArgumentParser.parse_known_args


@pytest.fixture
def parse(monkeypatch):
    """Return a function that starts a program and stops it when it has understood its command line."""
    monkeypatch.setattr(AnomalibCLI, "instantiate_classes", lambda _: None)
    for folder in ("benchmarks", "examples"):  # scripts there share helpers
        monkeypatch.syspath_prepend(ROOT / folder)

    def start(program, *arguments):
        if program == "anomalib":
            AnomalibCLI(arguments, run=False)
            return
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            patch.setattr(sys, "argv", list(arguments) if program == "python" else [program, *arguments])
            with suppress(ParsedError):
                if program in MODULES:
                    runpy.run_module(MODULES[program], run_name="__main__")
                else:
                    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
                pytest.fail(f"{program} {arguments} has no command line.")

    return start


# Commands


@every_document
def test_commands_are_understood(document, parse, tmp_path, monkeypatch):
    """Every command line has a program that accepts it, down to the last argument."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(document, "yaml"):
        Path("data.yaml" if block.startswith("class_path") else "config.yaml").write_text(block)
    for command in commands(document):
        if command[:2] == ["python", "-m"]:
            continue
        try:
            parse(*command)
        except SystemExit as stop:
            if stop.code:
                pytest.fail(f"{shlex.join(command)} is not understood.")


def test_commands_in_prose_and_blocks_are_found():
    """The test above sees what it is to see."""
    found = [command[:2] for document in DOCUMENTS for command in commands(document)]
    for expected in ("anomalib train", "anomalib export", "python benchmarks/seeds.py", "python examples/predict.py"):
        assert expected.split() in found
    assert [command for command in found if command[0] == "vqflow-predict"]
    assert len(found) > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight programs, one after the other
def test_commands_of_the_readme_run(tmp_path):
    """From training to the report and the exported model, as they stand, in a shell, one after the other."""
    for name in ("bottle", "nut"):
        make_category(tmp_path / "products", name, size=(80, 72))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bash(SMALL + "\n".join(shell_blocks(ROOT / "README.md")), tmp_path)
    run = tmp_path / "results" / "VQFlow" / "products" / "v0"
    for name in ("category_metrics.csv", "weights/openvino/model.xml", "report/index.html"):
        assert (run / name).exists()
    assert list((tmp_path / "maps").rglob("*.png"))


# Python and YAML


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for document in DOCUMENTS for block in blocks(document, "python")])
def test_python_runs(block, tmp_path, monkeypatch):
    """Python runs, here on small images, for an epoch, and without the download of weights."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    tiny_root(tmp_path / "products")
    code = block.replace("VQFlow(", "VQFlow(input_size=64, ")
    code = re.sub(r"max_epochs=\d+", "max_epochs=1", code)
    assert code != block
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.rglob("model.ckpt"))
    assert list(tmp_path.rglob("model.xml")) or "export" not in code


def test_the_quick_start_is_short():
    """Ten lines of Python at most."""
    (block,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in block.splitlines() if line]) <= 10


def test_data_of_several_sources(tmp_path, monkeypatch):
    """The file that mixes data sets is a datamodule with all their categories."""
    monkeypatch.chdir(tmp_path)
    tiny_root(tmp_path / "products")
    every = (block for document in DOCUMENTS for block in blocks(document, "yaml"))
    (block,) = (block for block in every if block.startswith("class_path"))
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")  # as anomalib's command line
    datamodule = parser.instantiate_classes(parser.parse_object({"data": yaml.safe_load(block)})).data
    assert datamodule.categories == ["candle", "pcb1", "bolt", "nut", "lid"]


# The table of arguments


def value(cell):
    """Read a cell of the table: YAML in backticks, a fraction, or a dash for none."""
    text = cell.strip().strip("`")
    return float(Fraction(text)) if re.fullmatch(r"\d+/\d+", text) else yaml.safe_load(text)


def table_of_arguments():
    lines = (ROOT / "docs" / "arguments.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    return {name.strip("`"): (default, published) for name, default, published, *_ in rows}


def test_every_argument_is_in_the_table_with_its_default():
    """In the order of the constructor."""
    parameters = inspect.signature(VQFlow).parameters
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in parameters.items()
    }
    assert {name: value(default) for name, (default, _) in table_of_arguments().items()} == defaults
    assert list(table_of_arguments()) == list(parameters)


def test_the_arguments_that_may_change_after_a_training_are_named():
    """All of them, and no others."""
    text = (ROOT / "docs" / "arguments.md").read_text(encoding="utf-8")
    sentence = re.search(r"A checkpoint may be loaded with another value of (.*?), which", text, re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", sentence)) == MAY_CHANGE


@pytest.mark.parametrize("name", ["mvtec_ad", "visa"])
def test_the_published_values_are_in_the_table(name):
    """A dash is for what the published configuration does not say."""
    published = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["model"]["init_args"]
    table = table_of_arguments()
    assert {name: value(cell) for name, (_, cell) in table.items() if cell != NONE} == published


# Files, links and words


def test_the_readme_is_short():
    """A front page, not a notebook."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_README_WORDS


@every_document
def test_files_exist(document):
    """Every file and folder of the repository that a document names is there."""
    if document.name == "CHANGELOG.md":
        pytest.skip("names files of the past, too")
    names = set(re.findall(rf"\b(?:{FOLDERS})/[\w/.]*\w", read(document)))
    assert not [name for name in names if not (ROOT / name).exists()]


def test_modules_in_the_readme_exist():
    """The table of panels and files names paths inside the package."""
    cells = [line.split("|")[3] for line in read(ROOT / "README.md").splitlines() if line.count("|") == 4]
    names = [name for cell in cells for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell)]
    assert "quantization/concept.py" in names
    assert not [name for name in names if not (ROOT / "anomalib_vqflow" / name).exists()]


def anchors(document):
    """List the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_document
def test_links_lead_somewhere(document):
    """Links inside the repository name a file that is there, and a heading in it."""
    for link in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_document
def test_no_commit_hashes(document):
    """Documents tell versions, not commits, of which a reader of a release knows nothing."""
    hashes = [word for word in re.findall(r"\b[0-9a-f]{7,40}\b", read(document)) if re.search(r"\d", word)]
    assert not [word for word in hashes if re.search(r"[a-f]", word)]
