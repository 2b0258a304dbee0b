# SPDX-License-Identifier: Apache-2.0
"""How far it is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int) -> Iterator[T]:
    """Tell on the standard error how many items are done.

    Args:
        items: Items, each done when the next is asked for.
        total: How many there are.

    Returns:
        The same items.
    """
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import track
        except ImportError:  # it comes with anomalib, which an exported model does not need
            return _with_lines(items, total)
        return iter(track(items, "Images", total, console=Console(stderr=True)))
    return _with_lines(items, total)


def _with_lines(items: Iterable[T], total: int) -> Iterator[T]:
    told = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES and count < total:
            told = time.monotonic()
            sys.stderr.write(f"{count} of {total} images\n")
