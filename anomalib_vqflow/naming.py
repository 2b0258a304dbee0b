# SPDX-License-Identifier: Apache-2.0
"""How messages name many things."""

from collections.abc import Sequence


def first_names(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """List the first few names, and count the others.

    Args:
        names: Names in their order.
        limit: How many to list.
        separator: What stands between them.

    Returns:
        Such as ``bolt, nut and 3 more``.

    Example:
        >>> first_names(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    listed = separator.join(names[:limit])
    return f"{listed} and {len(names) - limit} more" if len(names) > limit else listed
