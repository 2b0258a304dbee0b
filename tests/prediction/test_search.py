# SPDX-License-Identifier: Apache-2.0
"""Images are found wherever they are named, each once, and no two have the same name."""

import re
from pathlib import Path

import pytest

from anomalib_vqflow.prediction.search import find_sources

# What find_images finds in a folder is tested in tests/test_predict_example.py, beside the same for training.
FILES = ("one/a.png", "one/part/a.png", "one/part/b.jpg", "two/a.png", "two/notes.txt", "three/part/a[1].png")


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def names(*places, left_out=()):
    sources = find_sources(places, left_out)
    assert all(source.path.is_file() for source in sources)
    return [source.name.as_posix() for source in sources]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["one"], ["a.png", "part/a.png", "part/b.jpg"]),
        (["one/"], ["a.png", "part/a.png", "part/b.jpg"]),
        (["one/a.png"], ["a.png"]),
        (["one/a.png", "one/part/a.png"], ["a.png", "part/a.png"]),
        (["two", "one/part"], ["two/a.png", "one/part/a.png", "one/part/b.jpg"]),
        (["one/part", "one"], ["part/a.png", "part/b.jpg", "a.png"]),
        (["*/a.png"], ["one/a.png", "two/a.png"]),
        (["**/a.png"], ["one/a.png", "one/part/a.png", "two/a.png"]),
        (["one/p*"], ["part/a.png", "part/b.jpg"]),
        (["two/*"], ["a.png"]),
        (["three/part/a[1].png"], ["a[1].png"]),
        (["two/../one/part", "two"], ["one/part/a.png", "one/part/b.jpg", "two/a.png"]),
        (["."], [name for name in sorted(FILES) if not name.endswith(".txt")]),
    ],
)
def test_files_folders_and_patterns_are_searched(places, expected):
    """Names are paths below the deepest folder that holds all places; an image that is named twice is found once."""
    assert names(*places) == expected
    assert names(*(str(Path.cwd() / place) for place in places)) == expected


def test_paths_are_as_the_user_would_write_them():
    """Relative where the place is."""
    assert [str(source.path) for source in find_sources(["one/part", "two/*.png"])] == [
        "one/part/a.png",
        "one/part/b.jpg",
        "two/a.png",
    ]


def test_links_to_other_folders_are_not_taken_for_their_neighbors(tmp_path):
    """``link/..`` is the folder above the one that is linked to."""
    (tmp_path / "link").symlink_to(tmp_path / "one" / "part")
    assert names("link/..", "two") == ["one/a.png", "one/part/a.png", "one/part/b.jpg", "two/a.png"]


def test_folders_can_be_left_out():
    """By a relative path, too."""
    assert names("one", left_out=[Path("one/part")]) == ["a.png"]
    with pytest.raises(ValueError, match="no images in one/part, two"):
        names("one/part", "two", left_out=[Path("one"), Path("two")])


@pytest.mark.parametrize(
    ("place", "message"),
    [("four", "no image or folder four"), ("f*", "No image matches f*"), ("two/*.txt", "no images in two/*.txt")],
)
def test_nothing_is_an_error(place, message):
    """Which names the place."""
    with pytest.raises(ValueError, match=re.escape(message)):
        names("one", place) if "two" not in place else names(place)
