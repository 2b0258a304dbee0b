# SPDX-License-Identifier: Apache-2.0
"""Find bad files before training: by their headers, and by their content where that is cheap or may be equal."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from PIL.ImageFile import ImageFile

from anomalib_vqflow.naming import first_names

from .bit_depth import common_bit_depth
from .items import check_readers
from .multi_category_dataset import MultiCategoryDataset
from .reading import (
    Header,
    in_threads,
    inspect_mask,
    opened,
    orientation,
    read_header,
    upright_size,
)

END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "GIF": b";"}
TAIL_BYTES = 64
STRIPS_AND_TILES = ((273, 279), (324, 325))  # tags of TIFF: offsets and sizes
MOST = 0.5  # of an image
MANY_VALUES = 32  # more than there are kinds of defects

T = TypeVar("T")


def check_data(subsets: Mapping[str, MultiCategoryDataset], bit_depth: int | None = None) -> int | None:
    """Check the files of a datamodule.

    Args:
        subsets: Training images as ``train``, and others.
        bit_depth: Bits that image files of 16 bits really use, if the user knows.

    Returns:
        These bits, known or found out; None if there are no such files.

    Raises:
        ValueError: If a file is not fit for training or test; the message names it.
    """
    masks: dict[str, list[str]] = {}  # by image, as validation images are often test images, too
    categories: dict[str, str] = {}
    for subset in subsets.values():
        paths = subset.samples["image_path"]
        masks.update(zip(paths, subset.mask_paths(), strict=True))
        for path, category in zip(paths, subset.samples["category"], strict=True):
            if (other := categories.setdefault(path, category)) != category:
                msg = f"Categories {other!r} and {category!r} share the image {path}; leave one of them out."
                raise ValueError(msg)
    headers = check_images(list(masks), list(masks.values()))
    check_masks([path for paths in masks.values() for path in paths])
    pairs = find_duplicates(*(subsets[name].samples["image_path"] for name in ("train", "test")))
    if pairs:
        named = first_names([f"{test} equals {train}" for train, test in pairs], separator="; ")
        rank_zero_warn(f"{len(pairs)} test images are training images, too, which flatters results: {named}.")
    for category in subsets["train"].by_category:
        parts = [subset.by_category[category] for subset in subsets.values() if category in subset.by_category]
        check_readers(parts, headers)
    deep = [path for path, header in headers.items() if header.is_deep]
    return common_bit_depth(deep, categories, bit_depth) if deep else bit_depth


def check_images(image_paths: Sequence[str], mask_paths: Sequence[Sequence[str]]) -> dict[str, Header]:
    """Check that all images and masks can be opened and fit each other.

    Only the header and the end of a file are read; one that seems to be cut off is decoded to be sure.

    Args:
        image_paths: Paths of images.
        mask_paths: Paths of the masks of each image, none where it has none.

    Returns:
        The headers of all images, by path.

    Raises:
        ValueError: If a file is missing or is no image, if an image cannot be read truly, or if a mask has another size
            than its image; the message names the files.
    """
    headers, problems = {}, []
    for image_path, masks in zip(image_paths, mask_paths, strict=True):
        try:
            size, headers[image_path] = _examine(image_path, read_header)
        except ValueError as error:
            problems.append(str(error))
            continue
        for mask_path in masks:
            try:
                mask_size, _ = _examine(mask_path, orientation)
            except ValueError as error:
                problems.append(str(error))
                continue
            if mask_size != size:
                hint = ", turned upright as its orientation says" if headers[image_path].is_turned else ""
                problems.append(
                    f"mask {mask_path} is {_text(mask_size)}, its image {image_path} is {_text(size)}{hint}"
                )
    if problems:
        named = first_names(problems, separator="; ")
        msg = f"Expected readable images and masks of their size; {named}."
        raise ValueError(msg)
    _warn_of([path for path, header in headers.items() if header.is_turned], "are turned upright, as their EXIF says")
    _warn_of([path for path, header in headers.items() if header.has_frames], "have several frames; the first is used")
    return headers


def check_masks(paths: Sequence[str]) -> None:
    """Warn of masks whose content is not what one expects of a mask of defects.

    Args:
        paths: Masks of anomalous images.

    Raises:
        ValueError: If a mask cannot be decoded.
    """
    contents = dict(zip(paths, in_threads(inspect_mask, paths), strict=True))
    _warn_of([path for path, content in contents.items() if not content.share], "are masks that hold no defect")
    inverted = [f"{path} ({content.share:.0%})" for path, content in contents.items() if content.share > MOST]
    _warn_of(inverted, "are masks that cover most of their image; defects must be bright and the rest black")
    soft = [path for path, content in contents.items() if content.num_values > MANY_VALUES]
    _warn_of(soft, f"are masks of more than {MANY_VALUES} gray values, of which all but 0 count as defect")


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


def _examine(path: str, look: Callable[[ImageFile], T]) -> tuple[tuple[int, int], T]:
    with opened(path) as image:
        found = upright_size(image), look(image)
        if _seems_cut_off(image, path):
            image.load()
        return found


def _seems_cut_off(image: ImageFile, path: str) -> bool:
    """Tell whether a file lacks its end, or may lack it."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if image.format in END_MARKERS:
            file.seek(-min(TAIL_BYTES, size), os.SEEK_END)
            return END_MARKERS[image.format] not in file.read()
        start = file.read(8)
    if image.format == "WEBP":
        return int.from_bytes(start[4:], "little") + 8 > size
    if image.format == "BMP":
        return not 0 < int.from_bytes(start[2:6], "little") <= size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        ends = [sum(part) for places in STRIPS_AND_TILES for part in zip(*map(tags.get, places, ((), ())), strict=True)]
        return max(ends, default=size + 1) > size
    return True


def _warn_of(paths: Sequence[str], fault: str) -> None:
    if paths:
        rank_zero_warn(f"{len(paths)} files {fault}: {first_names(paths)}.")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    sizes: dict[int, list[str]] = {}
    for path in paths:
        sizes.setdefault(Path(path).stat().st_size, []).append(path)
    return sizes


def _content_hash(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes()).digest()
