# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are images, told by their names alone."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})  # by Pillow alone, though it knows them
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises at bad files."""
NEVER_IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("bat", "cfg", "csv", "db", "html", "ini", "ipynb", "json", "jsonl", "log", "md", "md5", "py", "rst", "sh"),
        *("sha256", "toml", "tsv", "txt", "url", "xlsx", "xml", "yaml", "yml"),
    )
)
TEXTS = frozenset({"LICENSE", "README"})


class Listing(NamedTuple):
    """Files in a folder and the folders below it, sorted by name."""

    images: list[Path]
    others: list[Path]  # that may hold images, such as ``.heic`` or ``.zip``, but can't be read


@cache
def image_suffixes() -> frozenset[str]:
    """List the suffixes of images that Pillow decodes, in lower case; its plugins add to them."""
    readable = {*decoded_formats(), "MPO"}  # stereo photographs are opened as JPEG
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable)


@cache
def decoded_formats() -> tuple[str, ...]:
    """List the formats that Pillow decodes by itself, for ``Image.open``, which goes by the content of a file.

    Else a file of any name that holds PostScript is run by Ghostscript.
    """
    Image.init()  # loads all of Pillow's readers
    return tuple(kind for kind in Image.OPEN if kind not in NOT_DECODED)


def list_folder(folder: Path) -> list[Path]:
    """List what is directly inside a folder, sorted by name, without hidden files and folders.

    Args:
        folder: Folder to look into.

    Returns:
        Paths of files and folders; links are followed.

    Raises:
        ValueError: If the folder cannot be listed, or holds a broken link.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        broken = next((path for path in paths if not (path.is_dir() or path.is_file())), None)
    except OSError as error:
        msg = f"Cannot list {folder} ({error.strerror}); make it readable, or remove it."
        raise ValueError(msg) from error
    if broken is not None:
        msg = f"{broken} is a broken link, or no regular file; repair or remove it."
        raise ValueError(msg)
    return paths


def is_image(path: Path) -> bool:
    """Tell from its suffix whether a file is an image that can be read."""
    return path.suffix.lower() in image_suffixes()


def may_be_image(path: Path) -> bool:
    """Tell whether a file, though it can't be read, may be an image or hold some, for all that its name says."""
    return not (path.suffix.lower() in NEVER_IMAGES or path.name.upper() in TEXTS)


def list_images(folder: Path) -> Listing:
    """List the images in a folder and all folders below it.

    Args:
        folder: Folder to look into; links are followed, but not in circles.

    Returns:
        Its images, and files that may hold some.

    Raises:
        ValueError: If a folder cannot be listed, or holds a broken link.
    """
    files = _walk(folder, (folder.resolve(),))
    others = [path for path in files if not is_image(path) and may_be_image(path)]
    return Listing([path for path in files if is_image(path)], others)


def find_images(place: Path) -> list[Path]:
    """List the images in a folder and all folders below it, in order.

    Args:
        place: Folder, or a single image.

    Returns:
        Files that are images by their suffix, broken ones and broken links included. Links to folders are followed,
        but not in circles; hidden files and folders are left out.

    Raises:
        OSError: If there is no such folder, or one cannot be listed.
    """
    if place.is_file():
        return [place]
    found: list[Path] = []
    folders: list[tuple[Path, tuple[Path, ...]]] = [(place, (place.resolve(),))]
    for folder, above in folders:  # grows
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if not path.is_dir():
                found += [path] if is_image(path) else []
                continue
            target = path.resolve()
            if not any(real.is_relative_to(target) for real in above):  # else a circle
                folders.append((path, (*above, target)))
    return sorted(found)


def _walk(folder: Path, above: tuple[Path, ...]) -> list[Path]:
    files = []
    for path in list_folder(folder):
        if not path.is_dir():
            files.append(path)
            continue
        target = path.resolve()
        if not any(real.is_relative_to(target) for real in above):  # what a link to a folder above holds is read there
            files += _walk(path, (*above, target))
    return files
