# SPDX-License-Identifier: Apache-2.0
"""One image of one product: scene, fault, light, camera and mask."""

from typing import NamedTuple
from zlib import crc32

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from .catalog import PRODUCTS, defects
from .noise import grain
from .primitives import blur, coordinates, shade, to_uint8
from .scene import Fault, Scene

GOOD = "good"
MIN_SIZE = 64  # below it, threads, strands and letters are finer than a pixel

_VISIBLE = 8  # levels of 255: a smaller change is taken for none, and not made
_MIN_AREA = 0.0015  # share of the image that a fault must change at least: 98 pixels at 256 x 256
_MIN_CONTRAST = 18  # mean change in levels of the most changed channel
_ATTEMPTS = 12


class Rendered(NamedTuple):
    """One image.

    Args:
        image: RGB image of shape ``(S, S, 3)``.
        mask: Mask of shape ``(S, S)``: 255 where the fault changed the image, 0 elsewhere.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def render(
    category: str, *, split: str = "test", defect: str = GOOD, index: int = 0, size: int = 256, seed: int = 0
) -> Rendered:
    """Generate one image; equal arguments give equal pixels, whatever else was generated before.

    Outside its mask, the image of a faulty piece equals, byte by byte, the image of the same piece without the fault.

    Args:
        category: One of :data:`CATEGORIES`.
        split: ``"train"`` or ``"test"``; both draw from the same distribution.
        defect: ``"good"``, or one of :func:`defects`.
        index: Number of the image within its split and defect.
        size: Side of the image in pixels, at least 64.
        seed: Seed of the whole set, not negative.

    Returns:
        Image and mask.

    Raises:
        ValueError: If a name is unknown or a number too small.

    Example:
        >>> image, mask = render("gear", defect="broken_tooth", size=64)
        >>> image.shape, mask.shape, bool(mask.any())
        ((64, 64, 3), (64, 64), True)
    """
    known = defects(category)
    if defect != GOOD and defect not in known:
        msg = f"Unknown defect {defect!r} of {category!r}; choose from {', '.join((GOOD, *known))}."
        raise ValueError(msg)
    if split not in {"train", "test"}:
        msg = f"Split must be 'train' or 'test', got {split!r}."
        raise ValueError(msg)
    if size < MIN_SIZE or index < 0 or seed < 0:
        msg = f"Expected size >= {MIN_SIZE}, index >= 0 and seed >= 0, got {size}, {index} and {seed}."
        raise ValueError(msg)
    key = [seed, crc32(category.encode()), crc32(f"{split}/{defect}".encode()), index]
    good = _photograph(_draw(category, GOOD, size, key, 0), key)
    if defect == GOOD:
        return Rendered(good, np.zeros((size, size), dtype=np.uint8))
    return _with_fault(category, defect, key, good)


def _stream(key: list[int], purpose: str, attempt: int = 0) -> Generator:
    return Generator(np.random.PCG64(SeedSequence([*key, crc32(purpose.encode()), attempt])))


def _draw(category: str, defect: str, size: int, key: list[int], attempt: int) -> Scene:
    product = PRODUCTS[category]
    fault = Fault(defect, _stream(key, "fault", attempt))
    scene = product.draw(size, _stream(key, "piece"), fault)
    if defect in product.surface:
        product.surface[defect](scene, fault.rng)
    return scene


def _with_fault(category: str, defect: str, key: list[int], good: NDArray[np.uint8]) -> Rendered:
    """Try faults until one is plain to see, or else take the one seen best."""
    size = good.shape[0]
    best, best_score = None, -1.0
    for attempt in range(_ATTEMPTS):
        image = _photograph(_draw(category, defect, size, key, attempt), key)
        change = np.abs(image.astype(np.int16) - good).max(axis=2)
        mask = _clean(change > _VISIBLE)
        area = np.count_nonzero(mask) / mask.size
        contrast = float(change[mask].mean()) if area else 0.0
        score = min(area / _MIN_AREA, 1) * min(contrast / _MIN_CONTRAST, 1)
        if score > best_score:
            best, best_score = Rendered(np.where(mask[..., None], image, good), mask.astype(np.uint8) * 255), score
        if score >= 1:
            break
    if best is None:  # pragma: no cover  (the loop runs at least once and a score is never negative)
        best = Rendered(good, np.zeros((size, size), dtype=np.uint8))
    return best


def _clean(changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps of a pixel or two and drop what is tiny beside the rest."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = area >= max(4, 0.02 * area[1:].max(initial=0))
    keep[0] = False
    return np.asarray(keep[labels])


def _photograph(scene: Scene, key: list[int]) -> NDArray[np.uint8]:
    """Light a scene and take its picture; lamp, lens and sensor depend on the key alone."""
    rng = _stream(key, "camera")
    size = scene.size
    image = shade(
        scene.albedo,
        blur(scene.height, 0.003),
        scene.gloss,
        azimuth=-2.2 + rng.normal(0, 0.12),
        elevation=0.9 + rng.normal(0, 0.05),
    )
    x, y = coordinates(size)
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    slope_x, slope_y = np.float32(slope * np.cos(direction)), np.float32(slope * np.sin(direction))
    falloff = 1 + slope_x * x + slope_y * y - np.float32(rng.uniform(0.05, 0.2)) * (x**2 + y**2)
    warmth = rng.normal(0, 0.015)
    balance = np.asarray([1 + warmth, 1, 1 - warmth], dtype=np.float32) * np.float32(1 + rng.normal(0, 0.035))
    image *= falloff[..., None] * balance
    image = blur(image, rng.uniform(0.0016, 0.0026))
    image += np.float32(rng.uniform(0.005, 0.010)) * grain(rng, image.shape)
    return to_uint8(image)
