# SPDX-License-Identifier: Apache-2.0
"""A product with an accidental pattern: a terrazzo tile."""

import numpy as np
from numpy.random import Generator

from .drawing import polygon
from .noise import fbm
from .primitives import Array, blob, box, coordinates, coverage, move, smoothstep
from .scene import Fault, Scene, flat_scene


def tile(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a polished terrazzo tile on a dark mat: stone chips of four colors in pale cement.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``chipped``, a piece broken out of an edge, or ``color_fault``, a discolored area.

    Returns:
        The scene.
    """
    x, y = move(*coordinates(size), rng.normal(0, 0.03), tuple(rng.uniform(-0.015, 0.015, 2)))
    outline = box(x, y, (0.445, 0.445), 0.012)
    if fault.kind == "chipped":
        along, turns = fault.rng.uniform(-0.3, 0.3), int(fault.rng.integers(4))
        chip_x, chip_y = move(x, y, turns * np.pi / 2, (0.0, 0.0))
        chip = blob(
            fault.rng, chip_x - np.float32(along), chip_y - np.float32(0.45), fault.rng.uniform(0.06, 0.13), 0.18, 9
        )
        depth = fault.rng.uniform(0.2, 1)
    scene = flat_scene(size, np.asarray([0.74, 0.72, 0.68]) * rng.normal(1, 0.015))
    cloud = fbm(rng, size, 5, 4)
    scene.albedo *= (1 + np.float32(0.025) * cloud)[..., None]
    palette = np.asarray([[0.30, 0.30, 0.32], [0.55, 0.36, 0.28], [0.88, 0.87, 0.84], [0.45, 0.48, 0.45]])
    for color in palette:
        scene.paint(color * rng.normal(1, 0.03), polygon(size, _chips(rng, 60)))
    scene.height = np.float32(0.012) * (1 - smoothstep(-0.02, 0.0, outline))
    scene.height += np.float32(0.0004) * fbm(rng, size, 40, 2)
    mat_tone = np.float32(rng.normal(1, 0.05)) * (1 + np.float32(0.12) * fbm(rng, size, 70, 2))
    inside = coverage(outline)
    scene.gloss = inside * np.float32(0.12)
    if fault.kind == "chipped":
        _break(scene, chip, fault.rng)
        inside = inside * (1 - coverage(chip + np.float32(0.03 * depth)))
    mat = np.asarray([0.17, 0.18, 0.21], dtype=np.float32)
    scene.paint(mat * mat_tone[..., None], 1 - inside)
    scene.region = coverage(outline + np.float32(0.01))
    if fault.kind == "color_fault":
        _discolor(scene, x, y, fault.rng)
    return scene


def _chips(rng: Generator, count: int) -> Array:
    """Return ``count`` convex polygons of shape (count, 6, 2), small ones more often than large ones."""
    center = rng.uniform(-0.54, 0.54, (count, 1, 2))
    radius = 0.008 + 0.022 * rng.uniform(0, 1, (count, 1)) ** 2
    angle = np.sort(rng.uniform(0, 2 * np.pi, (count, 6)), axis=1)
    stretch = rng.uniform(0.6, 1.4, (count, 1))
    corners = np.stack([np.cos(angle) * radius * stretch, np.sin(angle) * radius / stretch], axis=2)
    return np.asarray(center + corners, dtype=np.float32)


def _break(scene: Scene, distance: Array, rng: Generator) -> None:
    """Roughen the surface inside a shape, as where a piece has split off."""
    inside = coverage(distance)
    rough = fbm(rng, scene.size, 24, 3)
    scene.paint(np.asarray([0.50, 0.47, 0.42], dtype=np.float32) * (1 + 0.16 * rough)[..., None], inside)
    scene.height += inside * (np.float32(0.006) * rough + np.maximum(distance, np.float32(-0.08)) * np.float32(0.35))
    scene.gloss = scene.gloss * (1 - inside)


def _discolor(scene: Scene, x: Array, y: Array, rng: Generator) -> None:
    """Tint an area of the tile."""
    center = rng.uniform(-0.28, 0.28, 2).astype(np.float32)
    distance = blob(rng, x - center[0], y - center[1], rng.uniform(0.08, 0.14), 0.15, 5)
    tints = np.asarray([[0.60, 0.42, 0.30], [0.45, 0.62, 0.55], [0.52, 0.50, 0.72]], dtype=np.float32)
    alpha = (1 - smoothstep(-0.05, 0.01, distance)) * np.float32(rng.uniform(0.65, 0.95))
    scene.paint(scene.albedo * tints[rng.integers(3)] * np.float32(1.15), alpha * scene.region)
