# SPDX-License-Identifier: Apache-2.0
"""Results of runs on disk: a line of JSON for each, and beside it the scores of its test images.

A row is appended with one write, after the scores are in their place, so that a run that was killed leaves nothing that
passes for a result. Two processes can share a folder: each run is locked while it lasts.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_vqflow.whole_file import whole_file

Row = dict[str, Any]


class Store:
    """Rows, scores and locks of runs in a folder.

    Args:
        folder: Where they are; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows_file = folder / "rows.jsonl"

    def rows(self) -> dict[str, Row]:
        """Read the last row of every run, by its key; a line that a full disk cut off is no row."""
        rows: dict[str, Row] = {}
        if self.rows_file.exists():
            for line in self.rows_file.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                rows[row["key"]] = row
        return rows

    def finished(self) -> dict[str, Row]:
        """Read the rows of the runs that have results, and were not skipped."""
        return {key: row for key, row in self.rows().items() if "skipped" not in row}

    def append(self, row: Row, scores: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Add a row, after its scores.

        Args:
            row: The row, with its ``key``.
            scores: Arrays by name; None for a run that was skipped.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if scores is not None:
            with whole_file(self.scores_file(row["key"]), suffix=f".{os.getpid()}") as file:
                np.savez_compressed(file, **scores)
        begun = self.rows_file.exists() and not self.rows_file.read_bytes().endswith(b"\n")
        line = ("\n" if begun else "") + json.dumps(row, allow_nan=False) + "\n"
        handle = os.open(self.rows_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    def scores_file(self, key: str) -> Path:
        """Tell where the scores of a run are."""
        return self.folder / "scores" / f"{key}.npz"

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Keep other processes from the same run; the lock of a process ends with it, however that is.

        Args:
            key: The run.

        Yields:
            Whether the run is ours; False if another process is at it.
        """
        path = self.folder / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
