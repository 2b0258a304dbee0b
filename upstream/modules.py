# SPDX-License-Identifier: Apache-2.0
"""Which of our modules a contribution needs, read from their imports without importing them."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .seams import FACES, LEFT_OUT, PACKAGE, REPOSITORY, STANDS_IN

TOPS = (PACKAGE, "tests")


class Imported(NamedTuple):
    """A name of ours that a module imports."""

    module: str  # where it is defined; the module itself, if it is one
    name: str | None  # None if it is the module itself
    alias: str  # under which name it is used

    @property
    def is_left_out(self) -> bool:
        """Whether anomalib does without it."""
        return self.module in LEFT_OUT or f"{self.module}.{self.name}" in LEFT_OUT


def path_of(module: str) -> Path | None:
    """Find the file of one of our modules, or what stands in for it; None if there is no such module."""
    if module in STANDS_IN:
        return STANDS_IN[module]
    path = REPOSITORY.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def is_package(module: str) -> bool:
    """Tell whether a module of ours has modules under it."""
    path = path_of(module)
    return path is not None and path.name == "__init__.py"


@cache
def parse(module: str) -> ast.Module:
    """Parse the source of one of our modules.

    Raises:
        ValueError: If there is none of that name.
    """
    path = path_of(module)
    if path is None:
        msg = f"There is no module {module} in {REPOSITORY}, and nothing stands in for it."
        raise ValueError(msg)
    return ast.parse(path.read_text(encoding="utf-8"))


def source_of(node: ast.ImportFrom, importer: str, importer_is_package: bool) -> str:
    """Make the name of the module that a statement imports from absolute."""
    if not node.level:
        return node.module or ""
    parts = importer.split(".")
    parts = parts[: len(parts) - node.level + importer_is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imported(node: ast.AST, importer: str) -> list[Imported]:
    """List what a statement imports of ours.

    Args:
        node: Any statement.
        importer: Module that it stands in.

    Returns:
        Names, and where each of them is defined; empty for other statements and other packages.
    """
    if not isinstance(node, ast.ImportFrom):
        return []
    source = source_of(node, importer, is_package(importer))
    if source.split(".")[0] not in TOPS:
        return []
    return [_resolve(source, alias.name, alias.asname or alias.name) for alias in node.names]


def _resolve(source: str, name: str, alias: str) -> Imported:
    """Follow a name through the packages that only pass it on."""
    if path_of(f"{source}.{name}") is not None:
        return Imported(f"{source}.{name}", None, alias)
    if source in FACES:
        for node in ast.walk(parse(source)):
            for found in imported(node, source):
                if found.alias == name:
                    return found._replace(alias=alias)
    return Imported(source, name, alias)


def all_imported(module: str) -> Iterator[Imported]:
    """Yield all that a module imports of ours, under ``TYPE_CHECKING`` and in functions, too."""
    for node in ast.walk(parse(module)):
        yield from imported(node, module)


def needed(roots: Iterable[str], elsewhere: Iterable[str] = ()) -> list[str]:
    """List the modules that others need, themselves and packages that they are in included.

    Args:
        roots: Names of modules.
        elsewhere: Modules that another contribution has brought.

    Returns:
        Names, sorted. Packages with a face of their own are not among them.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found or module in FACES or module in TOPS or module in elsewhere or module in LEFT_OUT:
            continue
        found.add(module)
        waiting += [other.module for other in all_imported(module)]
        waiting.append(module.rpartition(".")[0])
    return sorted(found)
