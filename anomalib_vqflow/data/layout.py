# SPDX-License-Identifier: Apache-2.0
"""Which file of a category in MVTec layout is what, told by names alone: no file is opened."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from anomalib.data.utils import Split

from anomalib_vqflow.naming import first_names

from .files import is_image, list_folder, list_images, may_be_image
from .folder_names import GOOD, MASKS, find_roles, is_normal_name
from .masks import Matches, match_masks, named_as_mask


class ImageFile(NamedTuple):
    """An image, the folder in ``train``, ``val`` or ``test`` that it is in, whether it is normal, and its masks."""

    path: Path
    kind: str
    normal: bool
    masks: tuple[Path, ...] = ()


class Layout(NamedTuple):
    """Images of a category by split, the splits with masks, and sentences on what is not read."""

    images: dict[Split, list[ImageFile]]
    with_masks: set[Split]
    notes: list[str]


class Kind(NamedTuple):
    """A folder of images of one kind of defect, or of normal ones."""

    folder: Path
    normal: bool
    images: list[Path]


def read_layout(root: Path) -> Layout:
    """Find all images of a category, with their labels and masks.

    Args:
        root: Folder of the category.

    Returns:
        What there is, and what is not read.

    Raises:
        ValueError: If it is not sure what an image is or where a mask belongs, if an anomalous image has no mask
            although others have, or if a file or folder is broken.
    """
    roles = find_roles(root) if root.is_dir() else {}
    notes: list[str] = []
    if roles:
        _note(notes, f"not part of the layout of category {root.name}", _strangers(root, roles.values()))
    kinds = {split: _read_kinds(roles[split.value], notes) if split.value in roles else [] for split in Split}
    unused = [kind.folder for kind in kinds[Split.TRAIN] if kind.images and not kind.normal]
    kinds[Split.TRAIN] = [kind for kind in kinds[Split.TRAIN] if kind.normal]
    if unused and not any(kind.images for kind in kinds[Split.TRAIN]):
        msg = (
            f"Category {root.name!r} has no normal training images, as no folder has a name for them; found "
            f"{first_names([str(folder) for folder in unused])}. Rename that of normal images to {GOOD}."
        )
        raise ValueError(msg)
    _note(notes, "training images that are not normal, going by their folder", unused)
    masks, mask_folders = _read_masks(roles, kinds, notes)
    images = {
        split: [
            ImageFile(image, kind.folder.name, kind.normal, tuple(masks.get(image, ())))
            for kind in kinds[split]
            for image in kind.images
        ]
        for split in Split
    }
    for split, folder in mask_folders.items():
        _check_complete(kinds[split], masks, folder)
    return Layout(images, set(mask_folders), notes)


def _read_kinds(folder: Path, notes: list[str]) -> list[Kind]:
    """Read the folders of one split."""
    mask_folder = find_roles(folder).get(MASKS)
    entries = list_folder(folder)
    if loose := [str(path) for path in entries if path.is_file() and is_image(path)]:
        msg = (
            f"Images directly in {folder} may be normal or anomalous: {first_names(loose)}. Move them to "
            f"{folder / GOOD}, or to a folder that is named like their defect."
        )
        raise ValueError(msg)
    others = [path for path in entries if path.is_file() and may_be_image(path)]
    kinds = []
    for path in entries:
        if path.is_dir() and path != mask_folder:
            listing = list_images(path)
            if listing.others and not listing.images:
                msg = (
                    f"No file in {path} is an image that Pillow can read, going by their names: "
                    f"{first_names([str(file) for file in listing.others])}. Convert them to PNG, or remove {path}."
                )
                raise ValueError(msg)
            others += listing.others
            kinds.append(Kind(path, is_normal_name(path.name), listing.images))
    for kind in kinds:
        _check_kind(kind)
    _note(notes, "files that are no images, going by their names, or of a format that Pillow cannot read", others)
    _note(notes, "folders without images", [kind.folder for kind in kinds if not kind.images])
    return kinds


def _check_kind(kind: Kind) -> None:
    for image in kind.images:
        inner = next((p for p in image.relative_to(kind.folder).parts[:-1] if is_normal_name(p)), None)
        if inner is not None and not kind.normal:
            msg = (
                f"{image} may be normal, going by its folder {inner}, or anomalous, going by {kind.folder}. Move "
                f"normal images to {kind.folder.parent / GOOD / kind.folder.name}."
            )
            raise ValueError(msg)
    if pairs := named_as_mask(kind.images):
        named = first_names([f"{mask} of {image}" for mask, image in pairs])
        msg = f"Expected images, found what seems to be masks in {kind.folder}: {named}. Move them to ground_truth."
        raise ValueError(msg)


def _read_masks(
    roles: Mapping[str, Path], kinds: Mapping[Split, list[Kind]], notes: list[str]
) -> tuple[dict[Path, list[Path]], dict[Split, Path]]:
    """Match the masks with the images of ``val`` and ``test``: those of a folder of their own, or the common one.

    Returns:
        Masks by image, and the folder of masks of each split that has some.
    """
    common = roles.get(MASKS)
    by_split = _filled(find_roles(common)) if common else {}
    inside = _filled({n: found for n, path in roles.items() if n != MASKS and (found := find_roles(path).get(MASKS))})
    _note(notes, "masks of training images, which are normal", [inside[n] for n in inside if n == Split.TRAIN.value])
    splits_of: dict[Path, list[Split]] = {common: []} if common else {}
    for split in (Split.VAL, Split.TEST):
        own = [found[split.value] for found in (inside, by_split) if split.value in found]
        if len(own) > 1:
            msg = f"Expected one folder of {split.value} masks, got {own[0]} and {own[1]}; put their files together."
            raise ValueError(msg)
        for folder in own or ([common] if common else []):
            splits_of.setdefault(folder, []).append(split)
    read_alone = {path for name, path in by_split.items() if name in (Split.VAL.value, Split.TEST.value)}
    masks: dict[Path, list[Path]] = {}
    mask_folders: dict[Split, Path] = {}
    kinds_of = {folder: [kind for split in splits for kind in kinds[split]] for folder, splits in splits_of.items()}
    for folder, splits in splits_of.items():
        elsewhere = {other: kinds_of[other] for other in kinds_of if other != folder}
        matches = _match_kinds(folder, kinds_of[folder], elsewhere, read_alone, notes)
        masks.update(matches.masks)
        for split in splits:
            has_some = any(image in matches.masks for kind in kinds[split] for image in kind.images)
            if has_some or (matches.strays and split == splits[-1]):  # test, or val if it has a folder of its own
                mask_folders[split] = folder
    return masks, mask_folders


def _filled(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Leave out folders in which there is nothing; they say nothing about where masks are."""
    return {name: folder for name, folder in folders.items() if any(list_images(folder))}


def _match_kinds(
    folder: Path, kinds: list[Kind], elsewhere: Mapping[Path, list[Kind]], passed_over: set[Path], notes: list[str]
) -> Matches:
    """Match the masks in a folder; those of a kind that has no images are strays, others that fit none an error.

    Args:
        folder: Folder of masks.
        kinds: Kinds of the splits whose masks are in it.
        elsewhere: Kinds of other splits, by the folder of their masks.
        passed_over: Folders in it that are read alone.
        notes: Sentences on what is not read, added to.
    """
    matched: dict[Path, list[Path]] = {}
    strays: list[Path] = []
    files = [path for path in list_folder(folder) if path.is_file()]
    lost = [path for path in files if is_image(path)]
    unread = [path for path in files if not is_image(path) and may_be_image(path)]
    for path in (path for path in list_folder(folder) if path.is_dir() and path not in passed_over):
        listing = list_images(path)
        unread += listing.others
        same = _named(path.name, kinds)
        if is_normal_name(path.name):
            _note(notes, "masks of normal images, which have no defect", listing.images)
        elif not same and any(_named(path.name, others) for others in elsewhere.values()):
            lost += listing.images
        elif not same:
            _note(notes, "masks of no image", listing.images)
            strays += listing.images
        else:
            images = _places((kind.folder, image) for kind in same for image in kind.images)
            found = match_masks(images, _places((path, mask) for mask in listing.images))
            matched.update(found.masks)
            lost += found.strays
    if lost:
        others = f" Images of other splits have theirs in {first_names([str(path) for path in elsewhere])}."
        msg = (
            f"{len(lost)} masks belong to no image: {first_names([str(mask) for mask in lost])}. Name and "
            f"place them like their image, such as {folder / 'scratch' / '000_mask.png'} for scratch/000.png, or "
            f"remove them.{others if elsewhere else ''}"
        )
        raise ValueError(msg)
    _note(notes, "masks of a format that cannot be read", unread)
    if not (matched or strays or passed_over):
        _note(notes, "a folder of masks that holds none that can be read", [folder])
    return Matches(matched, strays)


def _named(name: str, kinds: Iterable[Kind]) -> list[Kind]:
    """Choose kinds that have images by the name of their folder, in any case unless one has it exactly."""
    kinds = [kind for kind in kinds if kind.images]
    exactly = [kind for kind in kinds if kind.folder.name == name]
    return exactly or [kind for kind in kinds if kind.folder.name.casefold() == name.casefold()]


def _places(files: Iterable[tuple[Path, Path]]) -> list[tuple[Path, PurePath]]:
    return [(file, file.relative_to(folder)) for folder, file in files]


def _check_complete(kinds: Iterable[Kind], masks: Mapping[Path, list[Path]], folder: Path) -> None:
    lacking = [(kind, image) for kind in kinds if not kind.normal for image in kind.images if image not in masks]
    if lacking:
        kind, image = lacking[0]
        expected = folder / kind.folder.name / image.relative_to(kind.folder).with_name(f"{image.stem}_mask.png")
        others = f", nor for {len(lacking) - 1} more" if len(lacking) > 1 else ""
        msg = (
            f"Expected a mask in {folder} for the anomalous image {image}, found none{others}; add {expected}, or "
            "remove the image."
        )
        raise ValueError(msg)


def _strangers(root: Path, known: Iterable[Path]) -> list[Path]:
    known = set(known)
    return [path for path in list_folder(root) if path not in known and (path.is_dir() or may_be_image(path))]


def _note(notes: list[str], what: str, paths: list[Path]) -> None:
    if paths:
        notes.append(f"{what}: {first_names([str(path) for path in paths])}")
