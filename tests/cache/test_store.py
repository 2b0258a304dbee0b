# SPDX-License-Identifier: Apache-2.0
"""A store gives back what was written, or says that it has not got it, whatever happens to its files."""

import errno
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from anomalib_vqflow.cache.store import ABANDONED_SECONDS, Context, DiskStore, MemoryStore

CONTEXT = Context("one", {"backbone": "a"}, 6, torch.float16)
VALUES = torch.tensor([0.1, -2.0, 3.5, 0.0, 65504.0, 6e-8], dtype=torch.float16)


@pytest.fixture
def disk(tmp_path):
    store = DiskStore(tmp_path / "cache")
    store.open(CONTEXT)
    store.reserve(2)
    store.write("good", VALUES)
    return store


def record(store):
    """The file of the only record of a disk store."""
    (path,) = store.root.rglob("*.maps")
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_records_are_what_was_written(kind, dtype, tmp_path):
    """Every record is bit-equal to what was written under its key, also after more have been reserved."""
    store = MemoryStore() if kind == "memory" else DiskStore(tmp_path)
    store.open(CONTEXT._replace(dtype=dtype))
    rows = torch.randn(5, 6).to(dtype)
    for part in (range(3), range(3, 5)):
        store.reserve(len(part))
        for row in part:
            store.write(str(row), rows[row])

    for row in range(5):
        assert str(row) in store
        assert torch.equal(store.read(str(row)), rows[row])
    assert "5" not in store


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_contexts_never_meet(kind, tmp_path):
    """A record is not found in another context."""
    store = MemoryStore() if kind == "memory" else DiskStore(tmp_path)
    store.open(CONTEXT)
    store.reserve(1)
    store.write("key", VALUES)

    store.open(CONTEXT._replace(name="two", description={"backbone": "b"}))

    assert "key" not in store


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: bytes(len(data) - 4),
    ],
)
def test_a_damaged_file_is_not_used(disk, damage):
    """A file that is cut short, too long, or differs in one bit is refused by reading, and removed by looking."""
    path = record(disk)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(OSError, match="damaged"):
        disk.read("good")
    with pytest.warns(UserWarning, match=r"damaged\. It is computed again"):
        assert "good" not in disk
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_no_record(disk, monkeypatch):
    """What a process leaves that dies while writing is no record, and goes when it is old: before, it may live."""
    monkeypatch.setattr(os, "fsync", lambda _: os._exit(9))
    if (child := os.fork()) == 0:
        disk.write("killed", VALUES)
    _, status = os.waitpid(child, 0)
    monkeypatch.undo()
    (left,) = disk.root.rglob("*.tmp")
    assert os.waitstatus_to_exitcode(status) == 9
    assert "killed" not in disk

    disk.open(CONTEXT)
    assert left.exists()
    os.utime(left, (0, time.time() - ABANDONED_SECONDS - 1))
    disk.open(CONTEXT)
    assert not left.exists()
    assert torch.equal(disk.read("good"), VALUES)


def test_a_disk_that_gets_full_leaves_no_bad_record(disk, monkeypatch):
    """The error says what to do, nothing half-written stays, and earlier records are good."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*Free some space"):
        disk.write("new", VALUES)
    monkeypatch.undo()

    assert "new" not in disk
    assert not list(disk.root.rglob("*.tmp"))
    assert torch.equal(disk.read("good"), VALUES)


def test_too_little_room_is_refused_before_writing(disk, monkeypatch):
    """Room is asked for in whole blocks of the file system; with one byte less than needed, nothing is written."""
    free = 3 * 4096
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    disk.reserve(3)
    free -= 1

    with pytest.raises(OSError, match=r"needs 0\.0 MiB.*clear\(\).*another folder"):
        disk.reserve(3)


def test_clear_deletes_all_contexts_and_nothing_else(disk):
    """Files that the store has not written stay, also in its own folders."""
    disk.open(CONTEXT._replace(name="two"))
    disk.write("other", VALUES)
    mine = [disk.root / "notes.txt", disk.root / "vqflow-two" / "notes.txt", disk.root / "vqflow.maps"]
    for path in mine:
        path.write_text("mine")

    disk.clear()

    assert sorted(path for path in disk.root.rglob("*") if path.is_file()) == sorted(mine)
    assert not (disk.root / "vqflow-one").exists()


def test_clear_frees_memory():
    """After clearing, a memory store has no record and holds no tensor."""
    store = MemoryStore()
    store.open(CONTEXT)
    store.reserve(1)
    store.write("key", VALUES)

    store.clear()

    assert "key" not in store
    assert not [value for value in vars(store).values() if isinstance(value, list) and value]
