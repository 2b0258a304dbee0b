# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image

from anomalib_vqflow.data.files import find_images, image_suffixes, list_folder, list_images

from .folders import make_image

WRITABLE = [".png", ".JPG", ".gif", ".jfif", ".jp2", ".tga", ".bmp", ".tif", ".webp", ".pcx", ".qoi", ".ico", ".avif"]


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("suffix", WRITABLE)
def test_what_pillow_writes_is_read(tmp_path, suffix):
    """Images of every common suffix, in any case, are found, and Pillow opens them."""
    make_image(tmp_path / f"x{suffix}", 60)

    (found,) = list_images(tmp_path).images
    with Image.open(found) as image:
        assert image.convert("RGB").size == (32, 32)


def test_formats_that_pillow_only_recognizes_are_no_images():
    """Suffixes that Pillow knows but doesn't decode without other programs are not taken for images."""
    assert image_suffixes().isdisjoint({".pdf", ".h5", ".mpg", ".eps", ".wmf"})
    assert image_suffixes() >= {".png", ".jpeg", ".mpo", ".tiff"}


def test_folders_are_searched_to_the_bottom(tmp_path):
    """Images deeper down are found, in the order of their names."""
    paths = [tmp_path / name for name in ("a/1.png", "a/b/2.png", "b.png", "c.png/3.png")]
    touch(*reversed(paths))

    assert list_images(tmp_path).images == paths


def test_only_files_that_cannot_hold_images_are_silently_passed_over(tmp_path):
    """Texts and hidden files are no images; files that may be some are told."""
    named = ["clip.mp4", "scan", "x.heic", "x.npy", "x.pdf", "x.svg", "x.zip"]
    silent = ["Thumbs.db", ".DS_Store", "._x.png", ".hidden/x.png", "notes.txt", "README", "labels.JSON"]
    touch(*(tmp_path / name for name in [*named, *silent]))

    assert list_images(tmp_path) == ([], [tmp_path / name for name in named])


@pytest.mark.parametrize("name", ["x.png", "x", "deeper/x.png"])
def test_broken_link_is_named(tmp_path, name):
    """A link to nothing is an error with its path, whatever its name and depth."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "gone")

    with pytest.raises(ValueError, match=rf"{name} is a broken link"):
        list_images(tmp_path)


def test_link_to_itself_is_named(tmp_path):
    """A link that leads nowhere but to itself is broken, too."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    with pytest.raises(ValueError, match="loop"):
        list_images(tmp_path)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    """Folders behind links are read; links to a folder above, or to each other, end."""
    touch(tmp_path / "a/1.png", tmp_path / "b/2.png", tmp_path / "outside/3.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a/out").symlink_to(tmp_path / "outside")

    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path / "a").images]

    assert found == ["a/1.png", "a/out/3.png", "a/to_b/2.png"]


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """A folder without the right to read it is an error with its path."""

    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)

    with pytest.raises(ValueError, match=rf"Cannot list {tmp_path} \(Permission denied\)"):
        list_folder(tmp_path)


def test_images_are_found_in_subfolders(tmp_path):
    """Every file whose name says that it is an image is listed in order, but hidden ones; a file stands for itself."""
    for name in ("b.PNG", "a/c.jpeg", "a/b/d.tga", ".hidden.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)] == ["a/b/d.tga", "a/c.jpeg", "b.PNG"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
