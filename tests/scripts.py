# SPDX-License-Identifier: Apache-2.0
"""The scripts of the repository as modules, and what they print."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str) -> ModuleType:
    """Import a script such as ``benchmarks/seeds.py`` without running it.

    As in a run, its own folder comes first where Python looks for modules, so that it finds the ones beside it.
    """
    script = ROOT / path
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(script.parent)
        module = importlib.import_module(script.stem)
    assert Path(module.__file__) == script
    return module


def read_table(printed: str) -> dict[str, list[str]]:
    """Find the rows of a Markdown table, without its head: cells by the first one."""
    lines = [line for line in printed.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}
