# SPDX-License-Identifier: Apache-2.0
"""Building blocks of procedural images: coordinates, shapes, shading and camera effects.

Every function is a pure function of its arguments and of the random generator given to it. Positions and lengths are in
units of the image side, x to the right and y down, with the center of the image at (0, 0), so a picture keeps its
composition when its size changes. Images are float32 arrays, gray ``(S, S)`` or colored ``(S, S, 3)``, with values
around 0 to 1 until :func:`to_uint8` rounds them.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]


def coordinates(size: int) -> tuple[Array, Array]:
    """Return the x and y coordinates of the pixel centers of a square image.

    Args:
        size: Side of the image in pixels.

    Returns:
        Two arrays of shape ``(size, size)`` with values in (-0.5, 0.5).

    Example:
        >>> x, y = coordinates(4)
        >>> x[0].tolist()
        [-0.375, -0.125, 0.125, 0.375]
    """
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    x, y = np.meshgrid(axis, axis)
    return np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)


def move(x: Array, y: Array, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[Array, Array]:
    """Return image coordinates as seen from a part that was turned by ``angle`` and then moved by ``shift``.

    Args:
        x: Horizontal image coordinates.
        y: Vertical image coordinates, same shape.
        angle: Rotation of the part in radians; positive turns the x axis towards the y axis.
        shift: Position of the part's origin in the image.

    Returns:
        Coordinates in the frame of the part, same shape.
    """
    dx, dy = x - np.float32(shift[0]), y - np.float32(shift[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * dx + sin * dy, cos * dy - sin * dx


def sample(texture: Array, x: Array, y: Array) -> Array:
    """Look a texture up at arbitrary coordinates, mirrored at its borders.

    Args:
        texture: Image of shape ``(T, T)`` or ``(T, T, 3)`` that covers (-0.5, 0.5) in both directions.
        x: Horizontal coordinates.
        y: Vertical coordinates, same shape.

    Returns:
        Bilinear samples, of the shape of ``x`` (plus the color axis of the texture).
    """
    rows, columns = texture.shape[:2]
    map_x = ((x + 0.5) * columns - 0.5).astype(np.float32)
    map_y = ((y + 0.5) * rows - 0.5).astype(np.float32)
    return np.asarray(cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def blur(image: Array, sigma: float) -> Array:
    """Blur with a Gaussian, mirrored at the borders.

    Args:
        image: Image of shape ``(S, S)`` or ``(S, S, 3)``.
        sigma: Standard deviation in units of the image side; less than a tenth of a pixel returns the image itself.

    Returns:
        Image of the same shape.
    """
    pixels = sigma * image.shape[0]
    if pixels < 0.1:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), pixels, borderType=cv2.BORDER_REFLECT_101))


def mix(a: ArrayLike, b: ArrayLike, weight: ArrayLike) -> Array:
    """Blend from ``a`` (weight 0) to ``b`` (weight 1).

    Args:
        a: Image, color or number.
        b: Image, color or number.
        weight: Weight of ``b``; give it a trailing axis of 1 to blend colored images.

    Returns:
        ``a + (b - a) * weight``, broadcast.
    """
    first = np.asarray(a, dtype=np.float32)
    change = np.asarray(b, dtype=np.float32) - first
    return np.asarray(change * np.asarray(weight, dtype=np.float32) + first)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """Rise smoothly from 0 at ``low`` to 1 at ``high`` (cubic).

    Args:
        low: Value below which the result is 0.
        high: Value above which the result is 1.
        value: Input array.

    Returns:
        Array of the same shape in 0 to 1.
    """
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def coverage(distance: Array, softness: float = 1.0, size: int | None = None) -> Array:
    """Turn a signed distance (negative inside) into an antialiased mask.

    Args:
        distance: Signed distances of shape ``(S, S)`` in units of the image side.
        softness: Width of the edge in pixels.
        size: Side of the whole image in pixels, where the distances are those of a cut-out.

    Returns:
        Mask of the same shape: 1 inside, 0 outside.
    """
    return np.clip(0.5 - distance * np.float32((size or distance.shape[0]) / softness), 0, 1)


def length(x: Array, y: Array) -> Array:
    """Return the length of the vectors (x, y); faster than ``np.hypot``, which guards against overflow."""
    return np.sqrt(x * x + y * y)


def circle(x: Array, y: Array, radius: float, center: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Return the signed distance to a circle (negative inside)."""
    return length(x - np.float32(center[0]), y - np.float32(center[1])) - np.float32(radius)


def box(x: Array, y: Array, half: tuple[float, float], corner: float = 0.0) -> Array:
    """Return the signed distance to a centered box of half sides ``half``, with corners of radius ``corner``."""
    qx = np.abs(x) - np.float32(half[0] - corner)
    qy = np.abs(y) - np.float32(half[1] - corner)
    outside = length(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)


def blob(rng: Generator, x: Array, y: Array, radius: float, roughness: float = 0.25, lobes: int = 7) -> Array:
    """Return the approximate signed distance to a random closed shape around the origin (negative inside).

    Args:
        rng: Source of randomness.
        x: Horizontal coordinates relative to the center of the shape.
        y: Vertical coordinates, same shape.
        radius: Mean radius.
        roughness: Relative size of the bumps of the outline.
        lobes: Number of harmonics of the outline.

    Returns:
        Distances along the radius, of the shape of ``x``.
    """
    order = np.arange(1, lobes + 1)
    amplitude = rng.standard_normal(lobes) * roughness / order**0.9
    phase = rng.uniform(0, 2 * np.pi, lobes)
    table_angle = np.linspace(-np.pi, np.pi, 361)
    table = 1 + (amplitude * np.cos(table_angle[:, None] * order + phase)).sum(axis=1)
    outline = np.interp(np.arctan2(y, x), table_angle, np.maximum(table, 0.35)).astype(np.float32)
    return length(x, y) - np.float32(radius) * outline


def walk(
    rng: Generator, start: tuple[float, float], angle: float, distance: float, wobble: float
) -> NDArray[np.float64]:
    """Return the points of a path that keeps its direction up to a random wobble.

    Args:
        rng: Source of randomness.
        start: First point (x, y).
        angle: First direction in radians.
        distance: Length of the path.
        wobble: Standard deviation of the direction changes in radians per step; there are 16 steps.

    Returns:
        Points of shape ``(17, 2)``.
    """
    steps = 16
    direction = angle + np.cumsum(rng.standard_normal(steps) * wobble)
    moves = np.stack([np.cos(direction), np.sin(direction)], axis=1) * (distance / steps)
    return np.concatenate([[start], np.asarray(start) + np.cumsum(moves, axis=0)])


def shade(
    albedo: Array,
    height: Array,
    gloss: ArrayLike = 0.0,
    azimuth: float = -2.2,
    elevation: float = 0.9,
    ambient: float = 0.45,
) -> Array:
    """Light a surface from one side: ambient, diffuse and specular reflection.

    Args:
        albedo: Colors of shape ``(S, S, 3)``.
        height: Heights of shape ``(S, S)`` in units of the image side.
        gloss: Strength of the highlight, one number or ``(S, S)``.
        azimuth: Direction of the light in the image plane in radians; the default comes from the upper left.
        elevation: Angle of the light above the image plane in radians.
        ambient: Share of light without direction.

    Returns:
        Image of shape ``(S, S, 3)``; a flat surface without gloss keeps its albedo.
    """
    size = height.shape[0]
    slope_y, slope_x = np.gradient(height, np.float32(1 / size))
    normal_z = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    light = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    light = light.astype(np.float32)
    facing = normal_z * (light[2] - slope_x * light[0] - slope_y * light[1])
    diffuse = np.float32(ambient) + np.float32(1 - ambient) / light[2] * np.maximum(facing, 0)
    half = light + np.array([0, 0, 1], dtype=np.float32)
    half /= np.linalg.norm(half)
    mirror = np.maximum(normal_z * (half[2] - slope_x * half[0] - slope_y * half[1]), 0)
    flat = half[2] ** 16
    highlight = np.asarray(gloss, dtype=np.float32) * (((mirror**2) ** 2) ** 4 - flat)
    return albedo * diffuse[..., None] + highlight[..., None]


def to_uint8(image: Array) -> NDArray[np.uint8]:
    """Round an image with values in 0 to 1 to bytes.

    Example:
        >>> to_uint8(np.array([[-0.1, 0.5, 1.2]], dtype=np.float32)).tolist()
        [[0, 128, 255]]
    """
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
