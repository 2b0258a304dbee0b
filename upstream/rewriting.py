# SPDX-License-Identifier: Apache-2.0
"""Turns the source of one of our modules into that of a module of anomalib's."""

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from . import seams
from .modules import Imported, imported, is_package, parse, path_of

HEADER = f"# Copyright (C) {date.today().year} Intel Corporation\n# SPDX-License-Identifier: Apache-2.0\n\n"
OUR_HEADER = re.compile(r"# SPDX-License-Identifier: Apache-2\.0\n\n?")
EXAMPLE = re.compile(r"^( *>>> )(from anomalib_vqflow[\w.]* import \w+(?:, \w+)*)", flags=re.MULTILINE)
REFERENCE = re.compile(rf"~anomalib_vqflow\.[\w.]*?({'|'.join(seams.PUBLIC)})`")


def place_of(module: str) -> str:
    """Get the name of one of our modules in anomalib."""
    old = max((old for old in seams.PLACES if f"{module}.".startswith(f"{old}.")), key=len)
    return seams.PLACES[old] + module.removeprefix(old)


def file_of(module: str) -> Path:
    """Get the path of one of our modules in anomalib's tree."""
    place = Path(*place_of(module).split("."))
    path = path_of(module)
    place = place / "__init__.py" if path is not None and path.name == "__init__.py" else place.with_suffix(".py")
    return place if place.parts[0] == "tests" else "src" / place


def rewrite(module: str, tree: Path, body: Sequence[ast.stmt] | None = None) -> str:
    """Rewrite the source of a module for anomalib: header, imports, base classes, references in docstrings.

    Args:
        module: Name of one of our modules.
        tree: anomalib's tree, which tells where it defines its names.
        body: The statements to keep; None for all.

    Returns:
        Source code, to be formatted.
    """
    parsed, path = parse(module), path_of(module)
    source = path.read_text(encoding="utf-8") if path else ""
    edits: list[tuple[int, int, str]] = []
    starts = _line_starts(source)
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom):
            start, end = _span(node, starts)
            text = _import(node, module, tree)
            edits.append((start, end if text else source.index("\n", end), text))  # nothing also without its comment
        elif isinstance(node, ast.ClassDef):
            kept = [base for base in node.bases if ast.unparse(base) not in _dropped_names(module)]
            if len(kept) < len(node.bases):
                first, last = node.bases[0], node.bases[-1]
                bases = ", ".join(ast.unparse(base) for base in kept)
                edits.append((_span(first, starts)[0], _span(last, starts)[1], bases))
    dropped = [] if body is None else [node for node in parsed.body if node not in body]
    edits = [edit for edit in edits if not any(_within(edit, _span(node, starts)) for node in dropped)]
    edits += [(*_span(node, starts), "") for node in dropped]
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    return HEADER + rewrite_text(OUR_HEADER.sub("", source, count=1))


def rewrite_text(source: str) -> str:
    """Rewrite what is not an import statement: names that become others, examples, references."""
    for old, new in seams.RENAMED.items():
        source = re.sub(rf"\b{old}\b", new, source)
    for pattern, new in seams.PATCHES.items():
        source = re.sub(pattern, new, source)
    source = EXAMPLE.sub(_example, source)
    return REFERENCE.sub(lambda found: f"~{seams.PUBLIC[found[1]]}.{found[1]}`", source)


def _example(found: re.Match[str]) -> str:
    groups = _grouped(ast.parse(found[2]).body[0], "", Path())
    return "\n".join(f"{found[1]}from {where} import {', '.join(names)}" for where, names in groups.items())


def _import(node: ast.ImportFrom, importer: str, tree: Path) -> str:
    """Write an import statement anew."""
    groups = _grouped(node, importer, tree)
    lines = [f"from {where} import {', '.join(names)}" for where, names in groups.items()]
    return ("\n" + " " * node.col_offset).join(lines)


def _grouped(node: ast.AST, importer: str, tree: Path) -> dict[str, list[str]]:
    """Group the names of an import statement by where anomalib has them."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    ours = imported(node, importer)
    for found in ours:
        if not found.is_left_out:
            where, name = _place_of_import(found, importer)
            groups[where].append(name)
    if not ours and isinstance(node, ast.ImportFrom):
        for alias in node.names:
            where = _defining(node.module or "", alias.name, place_of(importer), tree)
            groups[where].append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
    return groups


def _place_of_import(found: Imported, importer: str) -> tuple[str, str]:
    """Tell from where, and as what, a module of anomalib's imports a name of ours."""
    here = place_of(importer) if importer else ""
    package = here if importer and is_package(importer) else here.rpartition(".")[0]
    if found.name is None:
        where, _, name = place_of(found.module).rpartition(".")
    else:
        where, name = place_of(found.module), seams.RENAMED.get(found.name, found.name)
    public = seams.PUBLIC.get(name, "")
    if public and not here.startswith(f"{public}."):
        where = public
    is_alias = found.alias != (found.name or name)
    where = "." if where == package else where.removeprefix(package) if where.startswith(f"{package}.") else where
    return where, f"{name} as {found.alias}" if is_alias else name


def _defining(module: str, name: str, importer: str, tree: Path) -> str:
    """Find where to import one of anomalib's names from, without a package that is being imported itself."""
    while f"{importer}.".startswith(f"{module}.") and module.startswith("anomalib."):
        path = tree.joinpath("src", *module.split("."), "__init__.py")
        if not path.is_file():
            break
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
                module = f"{module}.{node.module}" if node.level else node.module or ""
                break
        else:
            break
    return module


def _dropped_names(module: str) -> set[str]:
    found = [name for node in ast.walk(parse(module)) for name in imported(node, module)]
    return {name.alias for name in found if name.is_left_out}


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _span(node: ast.stmt | ast.expr, starts: Sequence[int]) -> tuple[int, int]:
    """Get the first and last position of a node, with its decorators; lines hold no wide characters before nodes."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    start = starts[first - 1] + (0 if first < node.lineno else node.col_offset)
    return start, starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)


def _within(edit: tuple[int, int, str], span: tuple[int, int]) -> bool:
    return span[0] <= edit[0] and edit[1] <= span[1]
