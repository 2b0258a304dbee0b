# SPDX-License-Identifier: Apache-2.0
"""What the commands for trained models say to unusable arguments."""

import sys
from pathlib import Path
from typing import NoReturn


def check_checkpoint(program: str, path: Path) -> None:
    """End the process, as in :func:`stop`, if there is no such file."""
    if not path.is_file():
        stop(program, f"there is no checkpoint {path}; expected a file such as weights/lightning/model.ckpt.")


def stop(program: str, message: str) -> NoReturn:
    """End the process with status 2 and a sentence.

    Raises:
        SystemExit: Always.

    Example:
        >>> try:
        ...     stop("vqflow-report", "there is no checkpoint.")
        ... except SystemExit as end:
        ...     end.code
        2
    """
    sys.stderr.write(f"{program}: {message}\n")
    sys.exit(2)
