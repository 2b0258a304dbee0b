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
def whole_file(path: Path, sync: bool = False, suffix: str = PART) -> Iterator[IO[bytes]]:
    """Write a file beside its place, and move it there when all is written.

    Args:
        path: File to write; its folder is made. A link stays one, and the file that it points to is replaced.
        sync: Whether the content must have reached the disk before.
        suffix: What the name of the unfinished file ends in; another one in each of several processes that write it.

    Yields:
        The unfinished file, which may be closed within.

    Raises:
        OSError: If it cannot be written, with its name; then what was at the place before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.realpath(path))
    part = target.with_name(f"{target.name}{suffix}")
    try:
        with part.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # as if the disk is full
            error.filename = str(path)
        raise
