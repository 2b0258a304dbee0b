# SPDX-License-Identifier: Apache-2.0
"""A product that is an endless surface: a wooden plank."""

import numpy as np
from numpy.random import Generator

from .noise import fbm, value_noise
from .primitives import blob, coordinates, length, mix, move, sample, smoothstep
from .scene import Fault, Scene, flat_scene


def plank(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a planed board: year rings cut lengthwise, pores and fibers.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``knot``, a dark branch that pushes the grain aside.

    Returns:
        The scene.
    """
    x, y = coordinates(size)
    x, y = move(x, y, rng.normal(0, 0.04), (0.0, float(rng.uniform(-0.02, 0.02))))
    bend = value_noise(rng, size, (3, 2)) * np.float32(0.05)
    spacing = rng.uniform(9, 12)
    phase = rng.uniform(0, 1)
    fibers = sample(fbm(rng, size, (90, 5), 2), x, y)
    pores = sample(value_noise(rng, size, (150, 14)), x, y)
    cloud = fbm(rng, size, (4, 2), 2)
    knot = np.zeros_like(x)
    ring_y = y + bend
    if fault.kind == "knot":
        center = fault.rng.uniform(-0.3, 0.3, 2)
        radius = fault.rng.uniform(0.035, 0.07)
        dx, dy = (x - np.float32(center[0])) * np.float32(0.75), y - np.float32(center[1])
        distance = blob(fault.rng, dx, dy, radius, 0.1, 5)
        rings = np.float32(0.68) + np.float32(0.22) * np.cos(length(dx, dy) * np.float32(15.7 / radius))
        knot = (1 - smoothstep(-0.3 * radius, 0.3 * radius, distance)) * rings
        ring_y = ring_y - dy * np.exp(-((length(dx, dy) / np.float32(1.1 * radius)) ** 2))
    ring = np.mod(ring_y * np.float32(spacing) + np.float32(phase), 1)
    late = smoothstep(0.35, 0.95, ring) * (1 - smoothstep(0.95, 1.0, ring))
    tone = 0.55 * late + 0.13 * fibers + 0.08 * cloud
    light, dark = np.asarray([0.80, 0.62, 0.42]), np.asarray([0.52, 0.33, 0.18])
    shade_of_tree = rng.normal(1, 0.03) * rng.normal(1, 0.012, 3)
    scene = flat_scene(size, (0, 0, 0))
    scene.albedo = mix(light * shade_of_tree, dark * shade_of_tree, np.clip(tone + 0.15, 0, 1.1)[..., None])
    scene.albedo = scene.albedo * (1 - np.float32(0.25) * smoothstep(1.0, 2.2, pores))[..., None]
    scene.paint((0.22, 0.12, 0.06), knot)
    scene.height = np.float32(0.0012) * fibers - np.float32(0.002) * smoothstep(1.0, 2.0, pores)
    scene.gloss = np.full_like(x, 0.05)
    return scene
