# SPDX-License-Identifier: Apache-2.0
"""Files that come into being whole or not at all, whenever a process ends or a disk is full; standard library only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PART = ".part"
"""What the name of an unfinished file ends in; the next attempt overwrites it."""


@contextmanager
def whole_file(path: Path, sync: bool = False) -> Iterator[IO[bytes]]:
    """Write a file beside its place, and move it there when all is written.

    Args:
        path: File to write; its folder is made. A link stays one, and the file that it points to is replaced.
        sync: Whether the content must have reached the disk before.

    Yields:
        The unfinished file, which may be closed within.

    Raises:
        OSError: If it cannot be written; then what was at the place before is still there.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f"{path.name}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
