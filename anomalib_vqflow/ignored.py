# SPDX-License-Identifier: Apache-2.0
"""Regions of images that shall not count, and scores without them; in NumPy, for ``vqflow-predict``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .data.files import UNREADABLE, decoded_formats

SUFFIX = ".png"
WHITE = 128
"""Least brightness, and opacity, of what is white."""

PROPORTIONS = 0.02
"""What the proportions of a mask and of an image may differ by."""


class ScoreRule(NamedTuple):
    """How the score of an image comes of its map.

    Attributes:
        top_k_ratio: Share of the pixels, the highest, whose mean is the score.
        is_absolute: Whether the mean is taken before values are mapped to [0, 1], as in the ``likelihood`` map.
    """

    top_k_ratio: float
    is_absolute: bool

    def to_unit(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map what is averaged to [0, 1]; what is not a number counts as anomalous."""
        return np.nan_to_num(to_unit(values) if self.is_absolute else values, nan=1.0)


class IgnoredRegions:
    """Masks of regions that shall not count: what is white in them.

    A pixel of the map is ignored if its center is white in the mask, which is stretched over the image. The score is
    the mean of as many pixels as without a mask, the highest of those that are left. So a mask never makes it higher,
    and thresholds that were set without one keep their false-alarm rate.

    Args:
        place: A PNG for all images, or a folder with ``<product>.png`` for images in folders of this name.
        rule: How the model scores.

    Attributes:
        place: The same, as is ``rule``.

    Raises:
        ValueError: If there is no mask, or one cannot be used; the message names it.
    """

    def __init__(self, place: str | Path, rule: ScoreRule) -> None:
        self.place, self.rule = Path(place), rule
        if self.place.is_dir():
            paths = sorted(path for path in self.place.iterdir() if path.suffix.lower() == SUFFIX)
            if not paths:
                msg = (
                    f"There are no masks in {place}; give a folder with <product>{SUFFIX}, or one mask for all images."
                )
                raise ValueError(msg)
            self._masks = {path.stem: self._read(path) for path in paths}
        else:
            self._masks = {"": self._read(self.place)}
        self._for_all = not self.place.is_dir()

    def name_of(self, path: str | Path) -> str | None:
        """Find the mask of an image: that of the innermost folder that a mask is named like.

        Args:
            path: Image.

        Returns:
            Name of the mask, empty if it is for all; None if there is none for the image.
        """
        if self._for_all:
            return ""
        folders = reversed(Path(path).absolute().parent.parts)
        return next((folder for folder in folders if folder in self._masks), None)

    def check_some(self, paths: "list[Path] | list[str]") -> None:
        """Raise a ``ValueError`` if none of some images has a mask."""
        if all(self.name_of(path) is None for path in paths):
            names = ", ".join(sorted(self._masks))
            msg = f"No image lies in a folder that a mask in {self.place} is named like ({names})."
            raise ValueError(msg)

    def mask_of(self, path: str | Path, image: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Get what is ignored in an image.

        Args:
            path: The image.
            image: Its height and width, upright.
            size: Height and width of its map.

        Returns:
            Booleans of this size; None if there is no mask for the image.

        Raises:
            ValueError: If the mask has other proportions than the image.
        """
        if (name := self.name_of(path)) is None:
            return None
        mask = self._masks[name]
        height, width = mask.shape
        if abs(width * image[0] / (height * image[1]) - 1) > PROPORTIONS:
            where = self.place if self._for_all else self.place / f"{name}{SUFFIX}"
            msg = f"the mask {where} of {width}x{height} has other proportions than the image of {image[1]}x{image[0]}"
            raise ValueError(msg)
        return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))

    def score(self, raw_map: NDArray[np.floating], ignored: NDArray[np.bool_]) -> float:
        """Score an image without what is ignored.

        Args:
            raw_map: What the score is the mean of, of shape ``(h, w)``.
            ignored: What is ignored, of the same shape.

        Returns:
            Score before normalization.
        """
        count = max(int(self.rule.top_k_ratio * raw_map.size), 1)
        left = np.sort(raw_map[~ignored].astype(np.float64))[-count:]
        return float(self.rule.to_unit(left.mean()))

    def _read(self, path: Path) -> NDArray[np.bool_]:
        try:
            with path.open("rb") as file, Image.open(file, formats=decoded_formats()) as image:
                gray = np.asarray(image.convert("RGBA").convert("LA"))
        except FileNotFoundError as error:
            msg = f"There is no mask or folder of masks {path}."
            raise ValueError(msg) from error
        except UNREADABLE as error:
            msg = f"Cannot read the mask {path}; give a PNG of 8 bits, white where pixels shall not count."
            raise ValueError(msg) from error
        mask = np.logical_and(*np.moveaxis(gray >= WHITE, 2, 0))
        left = 1 - mask.mean()
        if left < self.rule.top_k_ratio:
            msg = (
                f"The mask {path} leaves {left:.1%} of the image, less than the {self.rule.top_k_ratio:.1%} that the "
                "score is the mean of; white is ignored, black is left."
            )
            raise ValueError(msg)
        return mask


def to_unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Map the real line to (0, 1) as the ``likelihood`` map does (:func:`.anomaly_map.to_unit`)."""
    with np.errstate(invalid="ignore"):
        return 1 - 1 / (1 + np.log1p(np.logaddexp(0, values)))
