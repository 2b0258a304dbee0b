# SPDX-License-Identifier: Apache-2.0
"""Find the image files that a command line names, and names for what is written of each."""

import glob
import os
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import NamedTuple

from anomalib_vqflow.data.files import find_images, is_image


class Source(NamedTuple):
    """An image file.

    Attributes:
        path: As the user would name it.
        name: What files that are written of it are named by; no other image has the same.
        category: Product, where images are evaluated.
        is_anomalous: What it is in truth, where images are evaluated.
    """

    path: Path
    name: PurePath
    category: str = ""
    is_anomalous: bool | None = None


class Found(NamedTuple):
    """Images below one root."""

    root: Path
    paths: list[Path]


def find_sources(places: Sequence[str], left_out: Sequence[Path] = ()) -> list[Source]:
    """Find the images at some places.

    Args:
        places: Images, folders, which are searched with their subfolders, and patterns such as ``images/*/good``.
        left_out: Folders that are not searched.

    Returns:
        Each image once, in the order of the places.

    Raises:
        ValueError: If a place does not exist, or there are no images.
        OSError: If a folder cannot be listed.
    """
    sources = name_sources([_look(place) for place in places], left_out)
    if not sources:
        msg = f"There are no images in {', '.join(places)}."
        raise ValueError(msg)
    return sources


def name_sources(found: Sequence[Found], left_out: Sequence[Path] = ()) -> list[Source]:
    """Name images by their path below the deepest folder that holds all roots, so that no two names are equal.

    Args:
        found: Images by root.
        left_out: Folders whose images are not taken.

    Returns:
        Each image once, in order.

    Raises:
        ValueError: If roots lie on different drives.
    """
    common = common_folder(files.root for files in found)
    barred = [absolute(folder) for folder in left_out]
    places = {absolute(files.root) / path.relative_to(files.root): path for files in found for path in files.paths}
    return [
        Source(path, place.relative_to(common))
        for place, path in places.items()
        if not any(place.is_relative_to(folder) for folder in barred)
    ]


def common_folder(roots: Iterable[Path]) -> Path:
    """Get the deepest folder that holds all of some folders."""
    return Path(os.path.commonpath([absolute(root) for root in roots]))


def absolute(path: Path) -> Path:
    """Make a path absolute, following links only where ``..`` would else be misunderstood."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _look(place: str) -> Found:
    path = Path(place)
    if path.is_dir():
        return Found(path, find_images(path))
    if path.is_file():
        return Found(path.parent, [path])
    matches = [Path(match) for match in sorted(glob.glob(place, recursive=True))]
    if not matches:
        msg = f"No image matches {place}." if glob.has_magic(place) else f"There is no image or folder {place}."
        raise ValueError(msg)
    images = (match for match in matches if match.is_dir() or is_image(match))
    root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    return Found(root, [image for match in images for image in find_images(match)])
