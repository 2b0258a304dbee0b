# SPDX-License-Identifier: Apache-2.0
"""Write what was found into a page of the documentation."""

from pathlib import Path


def write_between_markers(text: str, path: Path, name: str) -> None:
    """Replace what stands in a file between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Args:
        text: What is to stand there.
        path: The file.
        name: Name of the markers.

    Raises:
        ValueError: If the file does not have both markers, once each and in their order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = path.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end or begin in rest or end in before + after:
        msg = f"Expected {path} to have the line {begin} and, after it, {end}, once each. Add them where the text goes."
        raise ValueError(msg)
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
