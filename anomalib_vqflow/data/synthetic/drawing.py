# SPDX-License-Identifier: Apache-2.0
"""Lines and polygons, antialiased; points are in units of the image side, with the center at (0, 0)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .primitives import Array

_SUPERSAMPLING = 4  # strokes and polygons are drawn this much larger and averaged down
_SHIFT = 4  # fractional bits of the coordinates that OpenCV's drawing functions take


def stroke(size: int, points: ArrayLike, width: ArrayLike) -> Array:
    """Draw a line through points, antialiased.

    Args:
        size: Side of the image in pixels.
        points: Points of shape ``(N, 2)`` as (x, y).
        width: Width of the line, one number or one for each of the N - 1 segments.

    Returns:
        Mask of shape ``(size, size)``: 1 on the line.
    """
    large = size * _SUPERSAMPLING
    image = np.zeros((large, large), dtype=np.uint8)
    corners = _to_fixed_point(points, large)
    widths = np.broadcast_to(np.asarray(width, dtype=np.float64), (len(corners) - 1,))
    for first, second, thickness in zip(corners[:-1], corners[1:], widths, strict=True):
        pixels = max(1, round(thickness * large))
        cv2.line(image, first.tolist(), second.tolist(), 255, pixels, cv2.LINE_8, _SHIFT)
    return _shrink(image, size)


def strokes(size: int, paths: Sequence[ArrayLike], width: float) -> Array:
    """Draw lines of one width, antialiased; faster than one :func:`stroke` after the other.

    Args:
        size: Side of the image in pixels.
        paths: For each line, points of shape ``(N, 2)`` as (x, y).
        width: Width of the lines.

    Returns:
        Mask of shape ``(size, size)``: 1 on the lines.
    """
    large = size * _SUPERSAMPLING
    image = np.zeros((large, large), dtype=np.uint8)
    corners = [_to_fixed_point(points, large) for points in paths]
    cv2.polylines(image, corners, False, 255, max(1, round(width * large)), cv2.LINE_8, _SHIFT)  # noqa: FBT003
    return _shrink(image, size)


def polygon(size: int, points: ArrayLike) -> Array:
    """Fill a polygon, antialiased.

    Args:
        size: Side of the image in pixels.
        points: Corners of shape ``(N, 2)`` as (x, y), or several polygons of shape ``(M, N, 2)``.

    Returns:
        Mask of shape ``(size, size)``: 1 inside.
    """
    large = size * _SUPERSAMPLING
    image = np.zeros((large, large), dtype=np.uint8)
    corners = _to_fixed_point(points, large)
    many = corners if corners.ndim == 3 else corners[None]
    cv2.fillPoly(image, list(many), 255, cv2.LINE_8, _SHIFT)
    return _shrink(image, size)


def _to_fixed_point(points: ArrayLike, large: int) -> NDArray[np.int32]:
    pixels = (np.asarray(points, dtype=np.float64) + 0.5) * large - 0.5
    return np.round(pixels * 2**_SHIFT).astype(np.int32)


def _shrink(image: NDArray[np.uint8], size: int) -> Array:
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32) / np.float32(255)
