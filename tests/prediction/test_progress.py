# SPDX-License-Identifier: Apache-2.0
"""A bar on a terminal, a line now and then elsewhere, and always all items."""

import io
import sys

import pytest

from anomalib_vqflow.prediction import progress
from anomalib_vqflow.prediction.progress import with_progress


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self):
        return True


def test_a_log_gets_lines_now_and_then(monkeypatch, capsys):
    """And none at the end, which has its own, or where all is quick."""
    assert list(with_progress(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    assert list(with_progress(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == "1 of 3 images\n2 of 3 images\n"


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_gets_a_bar(monkeypatch, has_rich):
    """Lines, if rich is not there."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert list(with_progress(range(3), 3)) == [0, 1, 2]
    assert ("100%" in terminal.getvalue()) == has_rich
    assert ("2 of 3 images" in terminal.getvalue()) != has_rich
