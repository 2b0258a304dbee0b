# SPDX-License-Identifier: Apache-2.0
"""Write what a tool found into a page of the documentation."""

from pathlib import Path


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what lies between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Args:
        path: Markdown file.
        name: Name of the markers.
        text: What comes between them.

    Raises:
        ValueError: If the file does not have both markers, once each and in their order.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    whole = path.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end or whole.count(begin) + whole.count(end) > 2:
        msg = f"Expected {path} to have the line {begin.strip()} and, after it, {end}, once each."
        raise ValueError(msg)
    path.write_text(before + begin + text + end + after, encoding="utf-8")
