# SPDX-License-Identifier: Apache-2.0
"""A product with a regular texture: a swatch of woven fabric."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .noise import fbm
from .primitives import Array, coordinates, coverage, move, smoothstep
from .scene import Fault, Scene, flat_scene

_THREADS = 26  # across the image
_HALF = 11.5  # threads from the center of the swatch to its edge
_ORIGIN = 64  # number of the thread in the center, so that all numbers are positive
_THREAD_COLORS = ((0.62, 0.14, 0.12), (0.20, 0.45, 0.22), (0.75, 0.52, 0.10))


class _Weave(NamedTuple):
    """Woven threads, each array of shape ``(S, S)`` or ``(S, S, 3)``.

    Args:
        u: Position across the warp, in threads.
        v: Position across the weft, in threads.
        over: Whether the warp thread is on top.
        warp: Color of the warp thread.
        albedo: Color of the thread on top.
        height: Relief.
    """

    u: Array
    v: Array
    over: NDArray[np.bool_]
    warp: Array
    albedo: Array
    height: Array


def fabric(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a swatch of 2/2 twill with frayed edges on a pale table: blue warp, cream weft.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``missing_thread``, ``thick_thread`` or ``wrong_thread``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.80, 0.79, 0.76]) * rng.normal(1, 0.015))
    scene.albedo *= (1 + np.float32(0.02) * fbm(rng, size, 40, 3))[..., None]
    x, y = move(*coordinates(size), rng.normal(0, 0.03), tuple(rng.uniform(-0.015, 0.015, 2)))
    u = x * np.float32(_THREADS) + np.float32(0.14) * fbm(rng, size, 3, 2) + np.float32(_ORIGIN)
    v = y * np.float32(_THREADS) + np.float32(0.14) * fbm(rng, size, 3, 2) + np.float32(_ORIGIN)
    weave = _weave(u, v, rng)
    fray = rng.normal(0, 0.16, (2, 2 * _ORIGIN)).astype(np.float32) + np.float32(_HALF)
    past_u = np.abs(u - np.float32(_ORIGIN)) - fray[0][v.astype(np.intp)]
    past_v = np.abs(v - np.float32(_ORIGIN)) - fray[1][u.astype(np.intp)]
    outline = np.maximum(past_u, past_v) / np.float32(_THREADS)
    fuzz = 1 + np.float32(0.07) * fbm(rng, size, 90, 2)
    if fault.kind in {"missing_thread", "thick_thread", "wrong_thread"}:
        weave = _change_thread(weave, fault)
    shadow = coverage(outline - np.float32(0.012), 14)
    scene.albedo *= (1 - np.float32(0.3) * shadow)[..., None]
    inside = coverage(outline)
    scene.paint(weave.albedo * fuzz[..., None], inside)
    scene.height = weave.height * inside
    scene.region = coverage(outline + np.float32(0.01))
    return scene


def _weave(u: Array, v: Array, rng: Generator) -> _Weave:
    """Return the weave at thread coordinates; threads differ a little in tone."""
    column, row = np.floor(u), np.floor(v)
    over = np.mod(column + row, 4) < 2
    relief_warp, relief_weft = _round(u - column - np.float32(0.5)), _round(v - row - np.float32(0.5))
    tones = rng.normal(1, 0.04, (2, 2 * _ORIGIN)).astype(np.float32)
    warp_color = (np.asarray([0.20, 0.29, 0.44]) * rng.normal(1, 0.025)).astype(np.float32)
    weft_color = (np.asarray([0.66, 0.63, 0.56]) * rng.normal(1, 0.02)).astype(np.float32)
    warp = (tones[0][column.astype(np.intp)] * (0.5 + 0.5 * relief_warp))[..., None] * warp_color
    weft = (tones[1][row.astype(np.intp)] * (0.5 + 0.5 * relief_weft))[..., None] * weft_color
    height = np.where(over, relief_warp, relief_weft) * np.float32(0.008)
    return _Weave(u, v, over, warp, np.where(over[..., None], warp, weft), height)


def _round(offset: Array) -> Array:
    """Return the relief of a round thread at an offset of -0.5 to 0.5 from its middle."""
    return np.sqrt(np.maximum(1 - (offset / np.float32(0.52)) ** 2, 0))


def _change_thread(weave: _Weave, fault: Fault) -> _Weave:
    """Change one weft thread, over its whole length or over a part of it."""
    rng = fault.rng
    offset = np.abs(weave.v - np.float32(_ORIGIN + 0.5 + int(rng.integers(-9, 9))))
    first = np.float32(_ORIGIN + rng.uniform(-11, 0))
    last = first + np.float32(rng.uniform(9, 24))
    here = (offset < 0.5) & (weave.u > first) & (weave.u < last)
    if fault.kind == "missing_thread":
        under = np.where(weave.over[..., None], weave.warp * np.float32(0.6), np.float32(0.03))
        albedo = np.where(here[..., None], under, weave.albedo)
        return weave._replace(albedo=albedo, height=np.where(here, weave.height * np.float32(0.3), weave.height))
    if fault.kind == "wrong_thread":
        color = np.asarray(_THREAD_COLORS[int(rng.integers(len(_THREAD_COLORS)))], dtype=np.float32)
        thread = (0.5 + 0.5 * _round(offset))[..., None] * color
        return weave._replace(albedo=np.where((here & ~weave.over)[..., None], thread, weave.albedo))
    along = np.clip((weave.u - first) / (last - first), 0, 1)
    wide = np.float32(rng.uniform(0.8, 1.2)) * smoothstep(0, 0.4, np.minimum(along, 1 - along)) + np.float32(1e-3)
    bulge = np.sqrt(np.maximum(1 - (offset / wide) ** 2, 0))
    here = offset < wide
    slub = (0.6 + 0.4 * bulge)[..., None] * np.asarray([0.80, 0.77, 0.68], dtype=np.float32)
    albedo = np.where(here[..., None], slub, weave.albedo)
    return weave._replace(albedo=albedo, height=np.where(here, np.float32(0.014) * bulge, weave.height))
