# SPDX-License-Identifier: Apache-2.0
"""A file is there whole, or as it was before."""

import os

import pytest

from anomalib_vqflow.whole_file import PART, whole_file


def write_half(path, error):
    with whole_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("sync", [False, True])
def test_it_comes_to_its_place_at_the_end(tmp_path, sync):
    """Its folder is made; until the end there is only a file of another name."""
    path = tmp_path / "new" / "folder" / "file"
    with whole_file(path, sync) as file:
        file.write(b"text")
        file.flush()
        assert not path.exists()
        assert path.with_name(f"file{PART}").read_bytes() == b"text"
    assert path.read_bytes() == b"text"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), OSError(28, "No space left"), KeyboardInterrupt(), SystemExit(1)]
)
def test_whatever_happens_the_file_before_stays(tmp_path, error):
    """Nothing else is left, and an error of the system names the file."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(type(error)) as caught:
        write_half(path, error)
    assert caught.value is error
    assert getattr(error, "filename", str(path)) == str(path)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_an_error_keeps_the_name_of_another_file(tmp_path):
    """One that was to be read meanwhile."""
    with pytest.raises(FileNotFoundError, match="missing"), whole_file(tmp_path / "file"):
        (tmp_path / "missing").read_bytes()


def test_a_link_stays_a_link(tmp_path):
    """The file that it points to is replaced, in its own folder."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"before")
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write(b"after")
    assert os.readlink(link) == str(target)
    assert target.read_bytes() == link.read_bytes() == b"after"


def test_an_unfinished_file_of_before_is_overwritten(tmp_path):
    """Whatever a killed process left; and two processes that write the same file have one each."""
    path = tmp_path / "file"
    path.with_name("file.1").write_bytes(b"a long rest of before")
    with whole_file(path, suffix=".1") as file, whole_file(path, suffix=".2") as other:
        file.write(b"1")
        other.write(b"2")
        other.close()
    assert path.read_bytes() == b"1"
    assert [*tmp_path.iterdir()] == [path]
