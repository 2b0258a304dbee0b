# SPDX-License-Identifier: Apache-2.0
"""benchmarks/pages.py: what is replaced, and what is refused."""

import pytest

from benchmarks.pages import write_between_markers

BEGIN, END = "<!-- a:begin -->", "<!-- a:end -->"


def test_what_stands_around_stays(tmp_path):
    """Twice gives the same as once."""
    page = tmp_path / "page.md"
    page.write_text(f"x\n{BEGIN}\nold\n{END}\ny\n")
    for _ in range(2):
        write_between_markers("new\n", page, "a")
        assert page.read_text() == f"x\n{BEGIN}\nnew\n{END}\ny\n"


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_other_markers_are_refused(tmp_path, text):
    """And the page stays as it is."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        write_between_markers("new\n", page, "a")
    assert page.read_text() == text
