# SPDX-License-Identifier: Apache-2.0
"""What all pictures have in common: colors, text and how they become PNG."""

import io
from typing import NamedTuple

from matplotlib.figure import Figure

NORMAL, ANOMALOUS = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which color-blind readers can tell apart."""

INK, FAINT = "#222222", "#777777"
DPI = 150
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class Picture(NamedTuple):
    """A picture for a file and for the page.

    Attributes:
        name: Name of the file, without suffix.
        description: What it shows, for readers who can't see it.
        png: Content of the file.
    """

    name: str
    description: str
    png: bytes


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure on white, independent of pyplot's state.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        The figure.
    """
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def to_picture(figure: Figure, name: str, description: str) -> Picture:
    """Render a figure, with all of its text in view.

    Args:
        figure: The figure.
        name: Name of the file, without suffix.
        description: What it shows.

    Returns:
        The picture; equal figures give equal bytes.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.1, metadata={"Software": None})
    return Picture(name, description, buffer.getvalue())


def label(text: str, length: int = 28) -> str:
    """Make any name fit a label: shortened in its middle, and not taken for a formula.

    Args:
        text: Name of a category or file.
        length: Largest number of characters.

    Returns:
        The label.

    Example:
        >>> label("a_very_long_name_of_a_product", 11)
        'a_ver…oduct'
    """
    if len(text) > length:
        tail = (length - 1) // 2
        text = text[: length - 1 - tail] + ELLIPSIS + text[len(text) - tail :]
    return text.replace("$", r"\$")


def plural(number: int, noun: str) -> str:
    """Write a number with its noun.

    Args:
        number: The number.
        noun: Its noun in the singular.

    Returns:
        Both.

    Example:
        >>> plural(1, "image"), plural(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
