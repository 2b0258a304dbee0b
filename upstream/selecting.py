# SPDX-License-Identifier: Apache-2.0
"""Which of our tests go with a contribution: those of its modules that use nothing else of ours."""

import ast
import re
from collections.abc import Collection

from . import seams
from .modules import all_imported, imported, parse, path_of

OWN_NAMES = re.compile(r"\b(anomalib_vqflow|anomalib-vqflow|vqflow_tiny|tests\.\w+)\b")


def test_modules(modules: Collection[str]) -> list[str]:
    """List the test modules that mirror modules.

    Args:
        modules: Names of our modules.

    Returns:
        Those of their test modules that exist; a stand-in has none, because ours tests what it stands in for.
    """
    mirrored = []
    for module in modules:
        package, _, name = module.removeprefix(f"{seams.PACKAGE}.").rpartition(".")
        test = ".".join(filter(None, ["tests", package, f"test_{name}"]))
        if module not in seams.STANDS_IN and path_of(test) is not None:
            mirrored.append(test)
    return mirrored


def kept_statements(test: str, available: Collection[str]) -> list[ast.stmt]:
    """Choose the statements of a test module, or of what tests share, that work without the rest of our repository.

    A test or helper is left out if it uses a name that is not there, or holds code for another process, which would
    import from our repository.

    Args:
        test: Name of a module below ``tests``.
        available: Our modules that are there, and helpers of tests.

    Returns:
        Statements of the module.
    """
    parsed = parse(test)
    missing = {name.alias for name in all_imported(test) if name.is_left_out or name.module not in available}
    if "tests.conftest" not in available:
        missing.update(set(seams.FIXTURES).difference(*map(_bound, parsed.body)))
    kept = list(parsed.body)
    while True:
        left_out = [node for node in kept if _uses(node, missing) or _names_us(node) or _is_named(node)]
        if not left_out:
            return [node for node in kept if not _imports_only_missing(node, test, available)]
        kept = [node for node in kept if node not in left_out]
        missing |= {name for node in left_out for name in _bound(node)}


def helpers_of(tests: Collection[str], available: Collection[str]) -> list[str]:
    """List what tests share, as far as what is kept of them uses it.

    Args:
        tests: Test modules.
        available: Our modules that are there, and helpers of tests.

    Returns:
        Names of modules below ``tests`` that are not test modules.
    """
    shared = [name for name in available if name.startswith("tests.")]
    found = {name for name in shared if name == "tests.conftest"}  # pytest imports it
    waiting = [*tests, *found]
    while waiting:
        module = waiting.pop()
        used = _used_names(kept_statements(module, available))
        new = {name.module for name in all_imported(module) if name.module in shared and name.alias in used} - found
        found |= new
        waiting += new
    return sorted(found)


def _imports_only_missing(node: ast.stmt, test: str, available: Collection[str]) -> bool:
    names = imported(node, test)
    return bool(names) and not any(name.module in available for name in names)


def _used_names(nodes: Collection[ast.AST]) -> set[str]:
    return set().union(*map(_used_by, nodes))


def _used_by(node: ast.AST) -> set[str]:
    """List the names that a statement takes from its module, and the fixtures that it asks for."""
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    if not isinstance(node, ast.FunctionDef):
        return names
    arguments = {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
    takes_fixtures = node.name.startswith("test_") or any("fixture" in ast.unparse(d) for d in node.decorator_list)
    return names | arguments if takes_fixtures else names - arguments


def _uses(node: ast.stmt, names: set[str]) -> bool:
    return not isinstance(node, ast.ImportFrom) and not names.isdisjoint(_used_names([node]))


def _names_us(node: ast.stmt) -> bool:
    strings = [i.value for i in ast.walk(node) if isinstance(i, ast.Constant) and isinstance(i.value, str)]
    return not isinstance(node, ast.Expr) and any(OWN_NAMES.search(string) for string in strings)


def _is_named(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in seams.LEFT_OUT_TESTS


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {i.id for i in ast.walk(node) if isinstance(i, ast.Name) and isinstance(i.ctx, ast.Store)}
