# SPDX-License-Identifier: Apache-2.0
"""Lay the files of a pull request into a copy of anomalib's repository: ``python -m upstream.make TREE``."""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from . import host, seams
from .modules import needed
from .rewriting import HEADER, file_of, rewrite
from .selecting import helpers_of, kept_statements, test_modules

CONTRIBUTIONS = ("data", "model")
PICTURE = "docs/overview.jpg"
TABLES = {"generated": "Generated products", "real": "Real images"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the files as the command line asks.

    Args:
        arguments: Of the command line; None for those of this process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m upstream.make", description=__doc__)
    parser.add_argument("tree", type=Path, help="copy of anomalib's repository, in which files are made and changed")
    parser.add_argument("--contribution", choices=CONTRIBUTIONS, help="the one to lay; both if not given, data first")
    chosen = parser.parse_args(arguments)
    try:
        for contribution in [chosen.contribution] if chosen.contribution else CONTRIBUTIONS:
            paths = make(chosen.tree, contribution)
            print(f"{contribution}: {len(paths)} files made or changed in {chosen.tree}")
    except ValueError as error:
        parser.error(str(error))
    return 0


def make(tree: Path, contribution: str) -> list[Path]:
    """Lay a contribution into a tree.

    Args:
        tree: Copy of anomalib's repository.
        contribution: ``data`` or ``model``, which needs the former.

    Returns:
        Paths of the files made or changed.

    Raises:
        ValueError: If the tree is none of anomalib, lacks what a contribution needs, or has no place for an entry; or
            if a file would name what only our repository has.
    """
    if not (tree / "src" / "anomalib" / "__init__.py").is_file():
        msg = f"Expected a copy of anomalib's repository, found no src/anomalib in {tree}."
        raise ValueError(msg)
    data = needed(seams.ROOTS["data"])
    if contribution == "model" and not (tree / file_of(data[0])).is_file():
        msg = f"The model needs the contribution of data, which is not in {tree}; lay it first, or both."
        raise ValueError(msg)
    modules = data if contribution == "data" else needed(seams.ROOTS["model"], elsewhere=data)
    made = [*_sources(tree, modules), *_tests(tree, contribution, modules, data), *_templates(tree, contribution)]
    _format(tree, [path for path in made if path.suffix == ".py"])
    _check_names(made)
    changed = [host.add(tree, addition) for addition in host.ADDITIONS[contribution]]
    if contribution == "model":
        changed.append(host.add_third_party_note(tree))
    return sorted({*made, *changed})


def _sources(tree: Path, modules: Collection[str]) -> list[Path]:
    return [_write(tree / file_of(module), rewrite(module, tree)) for module in modules]


def _tests(tree: Path, contribution: str, modules: Collection[str], data: Collection[str]) -> list[Path]:
    """Write the tests of modules, and what they share."""
    there = [*modules, *seams.HELPERS[contribution]]
    there += [] if contribution == "data" else [*data, *seams.HELPERS["data"]]
    tests = test_modules(modules)
    shared = [name for name in helpers_of(tests, there) if name in seams.HELPERS[contribution]]
    paths = []
    for module in [*tests, *shared]:
        body = kept_statements(module, there)
        if module in shared or any(getattr(node, "name", "").startswith("test_") for node in body):
            paths.append(_write(tree / file_of(module), rewrite(module, tree, body)))
    packages = {path.parent for path in paths if not (path.parent / "__init__.py").exists()}
    return paths + [_write(package / "__init__.py", HEADER) for package in packages]


def _templates(tree: Path, contribution: str) -> list[Path]:
    """Copy what is written for anomalib, with its tables filled in."""
    folder, paths = seams.TEMPLATES / contribution, []
    for template in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = template.read_text(encoding="utf-8")
        for name, heading in TABLES.items():
            if f"{{{{{name}}}}}" in text:
                text = text.replace(f"{{{{{name}}}}}", _table_below(heading))
        text = HEADER + text.partition("\n")[2] if template.suffix == ".py" else text
        paths.append(_write(tree / template.relative_to(folder), text))
    if contribution == "model":
        picture = tree / "docs/source/images/vqflow/results.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(seams.REPOSITORY / PICTURE, picture)
        paths.append(picture)
    return paths


def _table_below(heading: str) -> str:
    """Get the first table below a heading of docs/results.md."""
    path = seams.REPOSITORY / "docs" / "results.md"
    _, _, section = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    found = re.search(r"(^\|.*\n)+", section.partition("\n## ")[0], flags=re.MULTILINE)
    if found is None:
        msg = f"{path} has no table below the heading {heading!r}; adapt upstream/make.py."
        raise ValueError(msg)
    return found[0].rstrip()


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _check_names(paths: Collection[Path]) -> None:
    """Refuse files that name what only our repository has."""
    for path in paths:
        if path.suffix != ".jpg" and (found := re.search(seams.FORBIDDEN, path.read_text(encoding="utf-8"))):
            msg = f"{path} would say {found[0]!r}, which anomalib does not have; add a patch to upstream/seams.py."
            raise ValueError(msg)


def _format(tree: Path, paths: Collection[Path]) -> None:
    """Sort imports, remove unused ones, and format, by anomalib's settings where the tree has them.

    Raises:
        ValueError: If a name is not defined in a file.
    """
    settings = tree / "pyproject.toml"
    with_settings = ["--config", str(settings)] if settings.is_file() else ["--isolated", "--line-length=120"]
    # Without preview, where newer versions rewrite `noqa` into comments that anomalib's older ruff does not know.
    rules = ["--no-preview"] if settings.is_file() else ["--select", "I,F401"]
    ruff = [sys.executable, "-m", "ruff"]
    files = list(map(str, paths))
    subprocess.run([*ruff, "check", *with_settings, *rules, "--fix-only", "--quiet", *files], cwd=tree, check=False)
    subprocess.run([*ruff, "format", *with_settings, "--quiet", *files], cwd=tree, check=False)
    command = [*ruff, "check", "--isolated", "--select", "F401,F811,F821,F822", "--output-format", "concise", "--quiet"]
    done = subprocess.run([*command, *files], cwd=tree, check=False, capture_output=True, text=True)
    if done.returncode:
        msg = f"The generated files are not in order; adapt upstream/seams.py:\n{done.stdout}{done.stderr}"
        raise ValueError(msg)


if __name__ == "__main__":
    sys.exit(main())
