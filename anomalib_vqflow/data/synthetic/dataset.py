# SPDX-License-Identifier: Apache-2.0
"""Sets of generated images on disk, in the folder layout of MVTec AD."""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .catalog import CATEGORIES, defects
from .render import GOOD, MIN_SIZE, render

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1  # raise it with every change of the pixels, so that nobody is served images of another version

_MANIFEST = "manifest.json"
_TEMPORARY = ".generating-"
_ABANDONED_AFTER = 3600.0  # seconds after which a temporary folder belongs to a killed run


class SetArguments(NamedTuple):
    """What the images of a category depend on.

    Args:
        image_size: Side of the images in pixels.
        num_train: Normal training images of each category.
        num_test_good: Normal test images of each category.
        num_test_defective: Defective test images of each category, shared out among its defects.
        seed: Seed of the images.
    """

    image_size: int = 256
    num_train: int = 60
    num_test_good: int = 16
    num_test_defective: int = 24
    seed: int = 0


def check(arguments: SetArguments) -> None:
    """Check the arguments of a set.

    Args:
        arguments: Arguments of the set.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small.
    """
    least = SetArguments(image_size=MIN_SIZE, num_train=1, num_test_good=1, num_test_defective=1, seed=0)
    for name, number, low in zip(SetArguments._fields, arguments, least, strict=True):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
            msg = f"Expected an integer for `{name}`, got {number!r} of type {type(number).__name__}."
            raise TypeError(msg)
        if number < low:
            msg = f"Expected `{name}` to be at least {low}, got {number}."
            raise ValueError(msg)


def set_folder(root: Path | str, arguments: SetArguments) -> Path:
    """Return the folder of the set with these arguments; another set, or generator version, has another folder.

    Args:
        root: Folder of all sets.
        arguments: Arguments of the set.

    Returns:
        Path of the folder, which need not exist.
    """
    text = json.dumps({**arguments._asdict(), "generator_version": GENERATOR_VERSION}, default=int)
    size, train, good, defective, seed = arguments
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(root) / f"{size}px_{train}-{good}-{defective}_seed{seed}_{digest}"


def generate(root: Path | str, arguments: SetArguments, categories: Sequence[str] = CATEGORIES) -> Path:
    """Write the categories of a set that aren't there yet.

    A category appears complete or not at all: it is written elsewhere in ``root`` and then renamed, so that killed runs
    and runs side by side leave no half set. Each category folder carries a manifest of what it was made with.

    Args:
        root: Folder of all sets; made where missing.
        arguments: Arguments of the set.
        categories: Names of the wanted categories.

    Returns:
        Folder of the set, with one folder in MVTec AD layout for each category.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a category is unknown or a number too small.
    """
    check(arguments)
    folder = set_folder(root, arguments)
    missing = [name for name in categories if not is_complete(folder / name, arguments)]
    if not missing:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    started = time.monotonic()
    for name in missing:
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        try:
            write_category(temporary / name, name, arguments)
            _publish(temporary / name, folder / name, arguments)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    logger.info("Generated %s in %.0f s: %s", folder, time.monotonic() - started, ", ".join(missing))
    return folder


def is_complete(folder: Path, arguments: SetArguments) -> bool:
    """Return whether a category folder holds every image of its set, made with these arguments.

    Args:
        folder: Folder of the category.
        arguments: Arguments of the set.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return manifest == _manifest(folder.name, arguments) and {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    } >= set(_files(folder.name, arguments))


def write_category(folder: Path, category: str, arguments: SetArguments) -> None:
    """Write the images, masks and manifest of one category.

    Args:
        folder: New folder of the category.
        category: Name of the category.
        arguments: Arguments of the set.
    """
    size, seed = arguments.image_size, arguments.seed
    for file, (split, defect, index) in _files(category, arguments).items():
        if split == "ground_truth":
            continue
        image, mask = render(category, split=split, defect=defect, index=index, size=size, seed=seed)
        _write_png(folder / file, np.ascontiguousarray(image[:, :, ::-1]))
        if defect != GOOD:
            _write_png(folder / _mask_file(defect, index), mask)
    text = json.dumps(_manifest(category, arguments), indent=2)
    (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")


def _files(category: str, arguments: SetArguments) -> dict[str, tuple[str, str, int]]:
    """Return split, defect and index of every file of a category, by its path."""
    files = {f"train/{GOOD}/{i:03d}.png": ("train", GOOD, i) for i in range(arguments.num_train)}
    files |= {f"test/{GOOD}/{i:03d}.png": ("test", GOOD, i) for i in range(arguments.num_test_good)}
    kinds = defects(category)
    for number in range(arguments.num_test_defective):
        index, kind = divmod(number, len(kinds))
        defect = kinds[kind]
        files[f"test/{defect}/{index:03d}.png"] = ("test", defect, index)
        files[_mask_file(defect, index)] = ("ground_truth", defect, index)
    return files


def _mask_file(defect: str, index: int) -> str:
    return f"ground_truth/{defect}/{index:03d}_mask.png"


def _manifest(category: str, arguments: SetArguments) -> dict[str, str | int]:
    numbers = {name: int(number) for name, number in arguments._asdict().items()}
    return {"generator_version": GENERATOR_VERSION, "category": category, **numbers}


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", image)
    if not done:  # pragma: no cover
        msg = f"Could not encode {path} as PNG."
        raise ValueError(msg)
    path.write_bytes(data.tobytes())


def _publish(source: Path, target: Path, arguments: SetArguments) -> None:
    """Move a finished category to its place, unless a run beside this one was faster."""
    if target.exists() and not is_complete(target, arguments):
        logger.warning("Replacing the incomplete images in %s.", target)
        target.rename(source.with_name(f"{source.name}-old"))
    try:
        source.rename(target)
    except OSError:
        if not is_complete(target, arguments):
            raise


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_TEMPORARY}*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)
