# SPDX-License-Identifier: Apache-2.0
"""Tiny categories in MVTec layout, written to disk."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_image(path: Path, value: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> None:
    """Write an image of noise around a gray value, reproducibly, different for every path name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, "/".join(path.parts[-4:]))) + value)
    pixels = rng.integers(0, 40, (size[1], size[0], 3), dtype=np.uint8) + np.uint8(value)
    Image.fromarray(pixels).convert(mode).save(path)


def make_mask(path: Path, size: tuple[int, int] = (32, 32), corner: int = 4) -> None:
    """Write a mask with one square defect of up to 8×8 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[corner : corner + 8, corner : corner + 8] = 255
    Image.fromarray(mask).save(path)


def make_category(
    root: Path,
    name: str,
    masks: bool = True,
    train: int = 4,
    good: int = 2,
    defect: int = 2,
    size: tuple[int, int] = (32, 32),
    mode: str = "RGB",
) -> Path:
    """Write one category and return its folder."""
    category = root / name
    for index in range(train):
        make_image(category / "train" / "good" / f"{index:03}.png", 60, size, mode)
    for index in range(good):
        make_image(category / "test" / "good" / f"{index:03}.png", 60, size, mode)
    for index in range(defect):
        make_image(category / "test" / "hole" / f"{index:03}.png", 150, size, mode)
        if masks:
            make_mask(category / "ground_truth" / "hole" / f"{index:03}_mask.png", size)
    return category
