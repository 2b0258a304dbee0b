# SPDX-License-Identifier: Apache-2.0
"""The maps of an image as a safetensors record with a checksum, and records in files."""

import math
import shutil
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from anomalib_vqflow.whole_file import whole_file

MIB = 2**20
BLOCK_BYTES = 4096  # of most file systems
ABANDONED_SECONDS = 3600  # writing takes a moment, so an older temporary file was left by a run that was killed
OWN_FILES = ("*.safetensors", "*.tmp", "*.maps", "context.json")  # the last two are of version 0.1


def encode(maps: Sequence[Tensor]) -> bytes:
    """Turn the maps of an image, contiguous and on the CPU, into the content of a safetensors file.

    It holds the maps, named by their number, and a checksum, because safetensors has none.
    """
    tensors = {str(level): values for level, values in enumerate(maps)}
    return save({**tensors, "checksum": torch.tensor(_checksum(maps))})


def decode(record: bytes) -> list[Tensor]:
    """Get the maps of a record.

    Raises:
        ValueError: If the record is damaged.
    """
    try:
        tensors = load(record)
        checksum = tensors.pop("checksum").item()
        maps = [tensors[str(level)] for level in range(len(tensors))]
    except (SafetensorError, KeyError):
        checksum, maps = None, []
    if checksum != _checksum(maps):
        msg = "The record is damaged."
        raise ValueError(msg)
    return maps


def _checksum(maps: Sequence[Tensor]) -> int:
    checksum = 0
    for values in maps:
        checksum = zlib.crc32(f"{values.dtype} {tuple(values.shape)}".encode(), checksum)
        checksum = zlib.crc32(values.view(torch.uint8).numpy().data, checksum)
    return checksum


class RecordFiles:
    """Records in files, used like a dictionary.

    A file is written under a temporary name, synced and renamed, so that neither a full disk nor a killed run leaves a
    bad one, and several processes may write the same record.

    Args:
        root: Folder of all files. Keys have the form ``vqflow-<folder>/<name>``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __contains__(self, key: str) -> bool:
        """Tell whether there is a good record; a damaged one is removed, with a warning."""
        try:
            decode(self[key])
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            rank_zero_warn(f"The feature cache computes {self._path(key)} again. {error}")
            self._path(key).unlink(missing_ok=True)
            return False
        return True

    def __getitem__(self, key: str) -> bytes:
        """Read a record, which may be damaged."""
        return self._path(key).read_bytes()

    def __setitem__(self, key: str, record: bytes) -> None:
        """Write a record, so that a reader finds all of it or nothing."""
        path = self._path(key)
        try:
            with whole_file(path, sync=True, suffix=f"-{uuid.uuid4().hex}.tmp") as file:
                file.write(record)
        except OSError as error:
            msg = (
                f"The feature cache could not write {path}: {error}. What it wrote before is good. Free some space, or "
                "give FeatureCache another folder, and train again."
            )
            raise OSError(msg) from error

    def reserve(self, num_records: int, record_bytes: int) -> None:
        """Remove what killed runs left, and make sure that there is room for new records.

        Raises:
            OSError: If there is not.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.glob("vqflow-*/*.tmp"):
            with suppress(FileNotFoundError):  # its writer lives, or another process was quicker
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
        needed = num_records * math.ceil(record_bytes / BLOCK_BYTES) * BLOCK_BYTES
        free = shutil.disk_usage(self.root).free
        if needed > free:
            msg = (
                f"The feature cache needs {needed / MIB:,.1f} MiB in {self.root}, but {free / MIB:,.1f} MiB are free. "
                "Free some space, call FeatureCache.clear(), or give FeatureCache another folder."
            )
            raise OSError(msg)

    def clear(self) -> None:
        """Delete the files that were written by this class, and no other."""
        for folder in self.root.glob("vqflow-*"):
            for path in (path for pattern in OWN_FILES for path in folder.glob(pattern)):
                path.unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.root / f"{key}.safetensors"


Records = dict[str, bytes] | RecordFiles
