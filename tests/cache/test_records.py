# SPDX-License-Identifier: Apache-2.0
"""Records give back what was written, or say that they have not got it, whatever happens to their files."""

import errno
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from anomalib_vqflow.cache.records import ABANDONED_SECONDS, RecordFiles, decode, encode

MAPS = [torch.tensor([[[0.1, -2.0, 3.5]], [[0.0, 65504.0, 6e-8]]]).half(), torch.ones(1, 1, 2).half()]
RECORD = encode(MAPS)
KEY = "vqflow-one/good"


@pytest.fixture
def files(tmp_path):
    files = RecordFiles(tmp_path / "cache")
    files[KEY] = RECORD
    return files


def check_equal(maps, expected):
    assert len(maps) == len(expected)
    for one, other in zip(maps, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_are_what_was_encoded(dtype):
    """Every map is bit-equal, of the same type and in its place, also with more than ten of them."""
    maps = [torch.randn(height, 2, 3).to(dtype) for height in range(1, 13)]

    check_equal(decode(encode(maps)), maps)


def test_records_of_equal_shapes_are_equally_long():
    """The size of a cache can be told from the record of one image."""
    maps = [torch.randn(4, 4, 3).half() for _ in range(3)]

    assert len({len(encode([m * scale for m in maps])) for scale in (0, 1, -3)}) == 1


@pytest.mark.parametrize("num_maps", [1, 2])
def test_every_flipped_bit_is_noticed(num_maps):
    """No record that differs in one bit is taken for a good one: neither its values, nor its header or checksum."""
    record = encode(MAPS[:num_maps])
    for position in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="damaged"):
            decode(bytes(damaged))


def test_every_other_length_is_noticed():
    """No record that is cut short or too long is taken for a good one."""
    for damaged in (*(RECORD[:length] for length in range(len(RECORD))), RECORD + b"\0", bytes(len(RECORD))):
        with pytest.raises(ValueError, match="damaged"):
            decode(damaged)


def test_swapped_maps_are_noticed():
    """Maps of equal shape that change places are not the maps that were encoded."""
    record = encode([torch.zeros(1, 1, 2).half(), torch.ones(1, 1, 2).half()])
    with pytest.raises(ValueError, match="damaged"):
        decode(record.replace(b'"0"', b'"x"').replace(b'"1"', b'"0"').replace(b'"x"', b'"1"'))


def test_a_file_is_found_under_its_key_and_in_its_folder_only(files):
    """A record is not found in the folder of another context, and any safetensors reader can read it."""
    assert KEY in files
    assert "vqflow-two/good" not in files
    check_equal(decode(files[KEY]), MAPS)
    assert torch.equal(load_file(files.root / f"{KEY}.safetensors")["0"], MAPS[0])


def test_a_damaged_file_is_removed_by_looking(files):
    """The warning names the file."""
    path = files.root / f"{KEY}.safetensors"
    path.write_bytes(RECORD[:-1])

    with pytest.warns(UserWarning, match=rf"computes .*{path.name} again\. .*damaged"):
        assert KEY not in files
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_no_record(files, monkeypatch):
    """What a process leaves that dies while writing is no record, and goes when it is old: before, it may live."""
    monkeypatch.setattr(os, "fsync", lambda _: os._exit(9))
    if (child := os.fork()) == 0:
        files["vqflow-one/killed"] = RECORD
    _, status = os.waitpid(child, 0)
    monkeypatch.undo()
    (left,) = files.root.rglob("*.tmp")
    assert os.waitstatus_to_exitcode(status) == 9
    assert "vqflow-one/killed" not in files

    files.reserve(0, len(RECORD))
    assert left.exists()
    os.utime(left, (0, time.time() - ABANDONED_SECONDS - 1))
    files.reserve(0, len(RECORD))
    assert not left.exists()
    assert files[KEY] == RECORD


def test_a_disk_that_gets_full_leaves_no_bad_record(files, monkeypatch):
    """The error says what to do, nothing half-written stays, and earlier records are good."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*Free some space"):
        files["vqflow-one/new"] = RECORD
    monkeypatch.undo()

    assert "vqflow-one/new" not in files
    assert not list(files.root.rglob("*.tmp"))
    assert files[KEY] == RECORD


def test_a_reader_finds_all_of_a_record_or_nothing(files, monkeypatch):
    """Until everything is synced, the record under the key is the earlier one; then it is the new one."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(files[KEY]))

    files[KEY] = encode(MAPS[:1])

    assert seen == [RECORD]
    check_equal(decode(files[KEY]), MAPS[:1])


def test_too_little_room_is_refused_before_writing(files, monkeypatch):
    """Room is asked for in whole blocks of the file system; with one byte less than needed, nothing is written."""
    free = 3 * 4096
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    files.reserve(3, len(RECORD))
    files.reserve(3, 4096)
    with pytest.raises(OSError, match="are free"):
        files.reserve(3, 4097)
    free -= 1

    with pytest.raises(OSError, match=r"needs 0\.0 MiB.*clear\(\).*another folder"):
        files.reserve(3, len(RECORD))


def test_clear_deletes_all_folders_and_nothing_else(files):
    """Files that were not written here stay, also in the same folders; those of version 0.1 go."""
    files["vqflow-two/other"] = RECORD
    old = files.root / "vqflow-old"
    old.mkdir()
    for name in ("a.maps", "a.maps-1.tmp", "context.json"):
        (old / name).write_text("written by version 0.1")
    mine = [files.root / "notes.txt", files.root / "vqflow-two" / "notes.txt", files.root / "vqflow.safetensors"]
    for path in mine:
        path.write_text("mine")

    files.clear()

    assert sorted(path for path in files.root.rglob("*") if path.is_file()) == sorted(mine)
    assert not (files.root / "vqflow-one").exists()
    assert not old.exists()
