# SPDX-License-Identifier: Apache-2.0
"""Find bad files before training: by their headers, and by their content where files may be equal."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from anomalib_vqflow.naming import first_names

CLIPPED_MODES = ("I", "F")  # 16-bit and 32-bit grayscale; anomalib's reader clips them at 255, which makes them white
END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
TAIL_BYTES = 64


def check_images(image_paths: Sequence[str], mask_paths: Sequence[str]) -> None:
    """Check that all images and masks can be opened and fit each other.

    Only the header and the end of a file are read; one that seems to be cut off is decoded to be sure.

    Args:
        image_paths: Paths of images.
        mask_paths: Path of the mask of each image, empty where it has none.

    Raises:
        ValueError: If a file is missing or is no image, if an image is 16-bit grayscale, or if a mask has another size
            than its image; the message names the files.
    """
    problems = []
    for image_path, mask_path in zip(image_paths, mask_paths, strict=True):
        try:
            size, mode = _header(image_path)
            mask_size = _header(mask_path)[0] if mask_path else size
        except ValueError as error:
            problems.append(str(error))
            continue
        if mode.startswith(CLIPPED_MODES):
            problems.append(f"{image_path} has more than 8 bits per pixel (mode {mode}); convert it to 8-bit grayscale")
        if mask_size != size:
            problems.append(f"mask {mask_path} is {_text(mask_size)}, its image {image_path} is {_text(size)}")
    if problems:
        named = first_names(problems, separator="; ")
        msg = f"Expected readable 8-bit images and masks of their size; {named}."
        raise ValueError(msg)


def find_duplicates(train_paths: Iterable[str], test_paths: Iterable[str]) -> list[tuple[str, str]]:
    """Find test images whose file content equals that of a training image.

    Args:
        train_paths: Paths of training images.
        test_paths: Paths of test images.

    Returns:
        Pairs of a training image and the test image that equals it.
    """
    train_sizes, test_sizes = _by_size(train_paths), _by_size(test_paths)
    pairs = []
    for size in train_sizes.keys() & test_sizes.keys():
        train_hashes = {_content_hash(path): path for path in train_sizes[size]}
        hashes = [(_content_hash(path), path) for path in test_sizes[size]]
        pairs += [(train_hashes[content], path) for content, path in hashes if content in train_hashes]
    return sorted(pairs, key=lambda pair: pair[1])


def _header(path: str) -> tuple[tuple[int, int], str]:
    try:
        with Path(path).open("rb") as file, Image.open(file) as image:
            size, mode, marker = image.size, image.mode, END_MARKERS.get(str(image.format), b"")
            file.seek(-min(TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            if marker not in file.read():
                file.seek(0)
                Image.open(file).load()
            return size, mode
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        msg = f"cannot read {path} ({error})"
        raise ValueError(msg) from error


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    sizes: dict[int, list[str]] = {}
    for path in paths:
        sizes.setdefault(Path(path).stat().st_size, []).append(path)
    return sizes


def _content_hash(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes()).digest()
