# SPDX-License-Identifier: Apache-2.0
"""Files that show what was found in an image: masks, heat maps, and the maps themselves."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from anomalib_vqflow.whole_file import whole_file


class Folders(NamedTuple):
    """Where to write the files of each image; None for what is not wanted.

    Attributes:
        masks: For PNG of the size of the image, white where it is anomalous.
        heat_maps: For PNG of the image under its map.
        maps: For maps as the model gives them, as ``.npy`` of shape ``(h, w)``, float32.
    """

    masks: Path | None = None
    heat_maps: Path | None = None
    maps: Path | None = None

    def wanted(self) -> Iterator[Path]:
        """Go through the folders that are wanted."""
        yield from (folder for folder in self if folder is not None)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask of shape ``(H, W)``: white where anomalous, else black."""
    with whole_file(path) as file:
        Image.fromarray(255 * mask.astype(np.uint8)).save(file, format="PNG")


def write_heat_map(path: Path, pixels: np.ndarray, anomaly_map: np.ndarray) -> None:
    """Write the map over its image: blue is normal, yellow the threshold (if the model has one), red anomalous.

    Args:
        path: File to write.
        pixels: RGB of shape ``(H, W, 3)``, of 8 bits or in [0, 1].
        anomaly_map: Map of shape ``(h, w)``, in [0, 1].
    """
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8))
    gray = Image.fromarray((255 * anomaly_map).round().astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    colors = ImageOps.colorize(gray, black="blue", mid="yellow", white="red")
    with whole_file(path) as file:
        Image.blend(image, colors, alpha=0.4).save(file, format="PNG")


def write_map(path: Path, anomaly_map: np.ndarray) -> None:
    """Write a map as it is."""
    with whole_file(path) as file:
        np.save(file, anomaly_map.astype(np.float32))


def target_of(folder: Path, name: PurePath, suffix: str) -> Path:
    """Name the file of an image; it keeps the suffix of the image, so that ``a.png`` and ``a.jpg`` have two.

    Example:
        >>> target_of(Path("masks"), PurePath("nut/a.jpg"), ".png").as_posix()
        'masks/nut/a.jpg.png'
    """
    target = folder / name
    return target.with_name(f"{target.name}{suffix}")
