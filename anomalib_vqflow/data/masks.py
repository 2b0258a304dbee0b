# SPDX-License-Identifier: Apache-2.0
"""Which mask belongs to which image, told by their names alone."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

WORD = r"(?:masks?|gt|ground[_-]?truth|labels?|seg|segmentation)"
WORDED = re.compile(rf"[_\-. ]?{WORD}(?:[_\-. ]?\d+|[_\-. ].+)?", re.IGNORECASE)
NUMBERED = re.compile(r"[_\-. ]\d+")
SURELY_MASK = re.compile(r"[_\-. ]?(?:masks?|ground[_-]?truth)(?:[_\-. ]?\d+)?", re.IGNORECASE)


class Matches(NamedTuple):
    """Masks of each image that has some, and masks that belong to no image."""

    masks: dict[Path, list[Path]]
    strays: list[Path]


def match_masks(images: Iterable[tuple[Path, PurePath]], masks: Iterable[tuple[Path, PurePath]]) -> Matches:
    """Match masks with images, by their places below the folder of all masks or images of one kind of defect.

    A mask, or a folder of masks, lies where its image lies, and is named like it, with or without its suffix, and with
    or without a number or a word for masks and what follows that: ``000.png``, ``000_mask.png``, ``000_mask_2.png``,
    ``000_1.png`` or ``000/1.png`` are masks of ``000.jpg``. Of several such images it belongs to that of the longest
    name, as ``000_1_mask.png`` to ``000_1.png`` and not to ``000.png``.

    Args:
        images: Images, and their places.
        masks: Masks, and their places.

    Returns:
        Masks of each image, and those that belong to none.

    Raises:
        ValueError: If a mask fits several images equally well.
    """
    named: dict[PurePath, list[Path]] = {}
    for image, place in images:
        for name in {place, place.with_suffix("")}:
            named.setdefault(name, []).append(image)
    matched: dict[Path, list[Path]] = {}
    strays = []
    for mask, place in masks:
        owners = _owners(place, named)
        if len(owners) > 1:
            msg = (
                f"Mask {mask} fits both {owners[0]} and {owners[1]}. Rename one of the images and its mask; if the "
                "images are of different splits, ground_truth/test and ground_truth/val may hold their masks."
            )
            raise ValueError(msg)
        if owners:
            matched.setdefault(owners[0], []).append(mask)
        else:
            strays.append(mask)
    return Matches(matched, strays)


def named_as_mask(images: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Find images that are named as the mask of an image beside them.

    Args:
        images: Images of one kind.

    Returns:
        Pairs of what seems to be a mask and its image.
    """
    by_name = {image.with_suffix(""): image for image in images}
    pairs = []
    for name, image in by_name.items():
        for end in range(len(name.name) - 1, 0, -1):
            other = by_name.get(name.with_name(name.name[:end]))
            if other is not None and SURELY_MASK.fullmatch(name.name[end:]):
                pairs.append((image, other))
                break
    return pairs


def _owners(place: PurePath, named: Mapping[PurePath, list[Path]]) -> list[Path]:
    """Find the images that a mask, or else the folders that it is in, is named after."""
    for own in (place.with_suffix(""), *place.parents[:-1]):
        for end in range(len(own.name), 0, -1):
            tail = own.name[end:]
            if (found := named.get(own.with_name(own.name[:end]))) and _is_tail(tail):
                return found
    return []


def _is_tail(tail: str) -> bool:
    number = NUMBERED.match(tail)
    rest = tail[number.end() :] if number else tail
    return not rest or WORDED.fullmatch(rest) is not None
