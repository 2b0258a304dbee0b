# SPDX-License-Identifier: Apache-2.0
"""Where cached feature maps are kept: in memory, or in one verified file per image."""

import json
import os
import shutil
import time
import uuid
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

MIB = 2**20
CHECKSUM_BYTES = 4
BLOCK_BYTES = 4096  # of most file systems
ABANDONED_SECONDS = 3600
"""Writing a record takes a moment, so an older temporary file was left by a run that was killed."""


class Context(NamedTuple):
    """What all records of a store have in common. Records of different contexts never meet."""

    name: str  # hash of the description
    description: Mapping[str, object]  # plain data, everything that the values depend on besides the image
    num_values: int  # numbers in a record
    dtype: torch.dtype

    @property
    def record_bytes(self) -> int:
        """Size of a record's values."""
        return self.num_values * self.dtype.itemsize


class FeatureStore(ABC):
    """Records of equally many half-precision numbers, by key."""

    context: Context

    @abstractmethod
    def open(self, context: Context) -> None:
        """Make the records of a context those that the other methods work on.

        Args:
            context: What the records depend on.
        """

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Tell whether there is a good record; a bad one is removed."""

    @abstractmethod
    def reserve(self, num_records: int) -> None:
        """Get ready for new records.

        Args:
            num_records: How many will be written.

        Raises:
            OSError: If there is no room for them.
        """

    @abstractmethod
    def write(self, key: str, values: Tensor) -> None:
        """Keep a record; a reader finds all of it or nothing.

        Args:
            key: Its key.
            values: Its numbers, of shape ``(num_values,)``, in the context's dtype.

        Raises:
            OSError: If it cannot be written.
        """

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """Get the numbers of a record, of shape ``(num_values,)``.

        Args:
            key: Its key.

        Returns:
            The numbers.

        Raises:
            OSError: If there is no good record.
        """

    @abstractmethod
    def clear(self) -> None:
        """Delete all records of all contexts."""


class MemoryStore(FeatureStore):
    """Records in the memory of this process, of one context at a time."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._places: dict[str, tuple[int, int]] = {}

    def open(self, context: Context) -> None:
        """Forget the records of any other context."""
        if getattr(self, "context", None) != context:
            self.clear()
        self.context = context

    def __contains__(self, key: str) -> bool:
        """Tell whether there is a record."""
        return key in self._places

    def reserve(self, num_records: int) -> None:
        """Allocate one block, because thousands of small tensors cannot be shared with worker processes."""
        self._blocks.append(torch.empty(num_records, self.context.num_values, dtype=self.context.dtype))
        self._next_row = 0

    def write(self, key: str, values: Tensor) -> None:
        """Copy the record into the reserved block."""
        self._blocks[-1][self._next_row] = values
        self._places[key] = (len(self._blocks) - 1, self._next_row)
        self._next_row += 1

    def read(self, key: str) -> Tensor:
        """Get a view of the record."""
        block, row = self._places[key]
        return self._blocks[block][row]

    def clear(self) -> None:
        """Free the memory."""
        self._blocks, self._places = [], {}


class DiskStore(FeatureStore):
    """Records in files, one per image, in one folder per context.

    A file holds the numbers and a checksum, which is verified at every reading. It is written under a temporary name,
    synced and then renamed, so that neither a full disk nor a killed run leaves a bad record, and several processes may
    write the same one.

    Args:
        root: Folder that holds the folders of all contexts.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def _folder(self) -> Path:
        return self.root / f"vqflow-{self.context.name}"

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.maps"

    def open(self, context: Context) -> None:
        """Make the context's folder, and remove what killed runs left in it."""
        self.context = context
        self._folder.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - ABANDONED_SECONDS
        for path in self._folder.glob("*.tmp"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # its writer lives, or another process was quicker
                continue
        description = json.dumps(context.description, indent=2).encode()
        if not (self._folder / "context.json").exists():
            self._replace(self._folder / "context.json", description)

    def __contains__(self, key: str) -> bool:
        """Tell whether there is a good record; a bad one is removed, with a warning."""
        try:
            self.read(key)
        except FileNotFoundError:
            return False
        except OSError as error:
            rank_zero_warn(f"{error} It is computed again.")
            self._path(key).unlink(missing_ok=True)
            return False
        return True

    def reserve(self, num_records: int) -> None:
        """Refuse if the disk has not enough room."""
        needed = num_records * (self.context.record_bytes // BLOCK_BYTES + 1) * BLOCK_BYTES
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            msg = (
                f"The feature cache needs {needed / MIB:,.1f} MiB in {self.root}, but {free / MIB:,.1f} MiB are free. "
                "Free some space, call FeatureCache.clear() if the folder holds caches of other trainings, or give "
                "FeatureCache another folder."
            )
            raise OSError(msg)

    def write(self, key: str, values: Tensor) -> None:
        """Write the record's file."""
        data = values.contiguous().view(torch.uint8).numpy().tobytes()
        self._replace(self._path(key), data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little"))

    def _replace(self, path: Path, data: bytes) -> None:
        """Write a file so that it exists as a whole or not at all."""
        temporary = path.with_name(f"{path.name}-{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            msg = (
                f"The feature cache could not write {path}: {error}. What it wrote before is good. Free some space, or "
                "give FeatureCache another folder, and train again."
            )
            raise OSError(msg) from error
        finally:
            temporary.unlink(missing_ok=True)  # it is there if this has failed

    def read(self, key: str) -> Tensor:
        """Read the record's file and verify it."""
        path = self._path(key)
        data = bytearray(self.context.record_bytes + CHECKSUM_BYTES)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == len(data):
                size = file.readinto(data)
        values, checksum = memoryview(data)[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if size != len(data) or zlib.crc32(values) != int.from_bytes(checksum, "little"):
            msg = f"The file {path} of the feature cache is damaged."
            raise OSError(msg)
        return torch.frombuffer(data, dtype=self.context.dtype, count=self.context.num_values)

    def clear(self) -> None:
        """Delete the files that stores like this one have written, and nothing else."""
        for folder in self.root.glob("vqflow-*"):
            for path in (*folder.glob("*.maps"), *folder.glob("*.tmp"), folder / "context.json"):
                path.unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
