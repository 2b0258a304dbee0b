# SPDX-License-Identifier: Apache-2.0
"""Sizes of images as users give them."""

from collections.abc import Iterable, Sequence
from numbers import Real

LONGEST_SIDE = 2**14
"""More pixels than memory holds maps for; beyond it, torch fails with errors that name no argument."""


def height_and_width(size: Sequence[int] | int, name: str = "input_size") -> list[int]:
    """Read an image size.

    Args:
        size: Height and width in pixels, or one number for both.
        name: Name of the argument.

    Returns:
        Height and width.

    Raises:
        ValueError: If it is anything else.
    """
    sizes = list(size) if isinstance(size, Iterable) else [size, size]
    if len(sizes) != 2 or not all(map(_is_length, sizes)):
        msg = (
            f"{name} must be height and width in pixels, such as [256, 256], or one number, up to {LONGEST_SIDE}, got "
            f"{size!r}."
        )
        raise ValueError(msg)
    return list(map(int, sizes))


def _is_length(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return 1 <= value <= LONGEST_SIDE and float(value).is_integer()  # type: ignore[operator]
