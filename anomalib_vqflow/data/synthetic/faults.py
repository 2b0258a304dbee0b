# SPDX-License-Identifier: Apache-2.0
"""Faults of a surface, whatever the product: each changes colors, relief or gloss of a scene in place."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from .drawing import stroke, strokes
from .noise import fbm, value_noise
from .primitives import Array, blob, blur, coordinates, coverage, smoothstep, walk
from .scene import Scene

Color = tuple[float, float, float]


def place(scene: Scene, rng: Generator, margin: float = 0.08) -> tuple[float, float]:
    """Return a random point (x, y) of the product."""
    x, y = 0.0, 0.0
    for _ in range(64):
        x, y = rng.uniform(margin - 0.5, 0.5 - margin, 2)
        if scene.region[int((y + 0.5) * scene.size), int((x + 0.5) * scene.size)] > 0.9:
            break
    return float(x), float(y)


def _around(scene: Scene, rng: Generator) -> tuple[Array, Array]:
    center = place(scene, rng)
    x, y = coordinates(scene.size)
    return x - np.float32(center[0]), y - np.float32(center[1])


def scratch(scene: Scene, rng: Generator, color: Color = (0.92, 0.92, 0.9)) -> None:
    """One to three thin straight grooves."""
    start = np.asarray(place(scene, rng))
    angle = rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(1, 4)):
        start = start + rng.uniform(-0.03, 0.03, 2)
        length = rng.uniform(0.15, 0.4)
        points = walk(rng, (start[0], start[1]), angle + rng.normal(0, 0.06), length, 0.03)
        line = stroke(scene.size, points - (points[8] - points[0]), rng.uniform(0.006, 0.012)) * scene.region
        scene.paint(color, line * np.float32(rng.uniform(0.55, 0.95)))
        scene.height = scene.height - np.float32(0.004) * line


def crack(scene: Scene, rng: Generator, color: Color = (0.06, 0.05, 0.05), angle: float | None = None) -> None:
    """A jagged dark line that branches and gets thinner."""
    direction = rng.uniform(0, 2 * np.pi) if angle is None else angle + rng.choice([0, np.pi])
    length = rng.uniform(0.25, 0.5)
    width = rng.uniform(0.008, 0.016)
    center = np.asarray(place(scene, rng))
    points = walk(rng, (0.0, 0.0), direction, length, 0.35 if angle is None else 0.15)
    points = points - points[8] + center
    line = stroke(scene.size, points, width * np.linspace(1, 0.35, 16))
    for _ in range(rng.integers(1, 4)):
        node = int(rng.integers(3, 13))
        side = direction + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
        branch = walk(rng, (points[node, 0], points[node, 1]), side, length * rng.uniform(0.2, 0.45), 0.3)
        line = np.maximum(line, stroke(scene.size, branch, width * np.linspace(0.7, 0.25, 16)))
    line = line * scene.region
    scene.paint(color, line * np.float32(rng.uniform(0.75, 1)))
    scene.height = scene.height - np.float32(0.006) * line


def stain(scene: Scene, rng: Generator, colors: Sequence[Color] = ((0.16, 0.11, 0.06),)) -> None:
    """An uneven spot of a foreign liquid or of rust, with a darker rim."""
    color = np.asarray(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.85, 1.15)
    radius = rng.uniform(0.04, 0.11)
    x, y = _around(scene, rng)
    stretch = np.float32(rng.uniform(0.75, 1.3))
    distance = blob(rng, x * stretch, y / stretch, radius, roughness=0.22)
    distance = distance + np.float32(0.12 * radius) * value_noise(rng, scene.size, 24)
    body = 1 - smoothstep(-0.25 * radius, 0.05 * radius, distance)
    rim = np.exp(-((distance / np.float32(0.14 * radius)) ** 2))
    density = np.clip(0.8 + 0.2 * value_noise(rng, scene.size, 12), 0.4, 1)
    alpha = np.clip(body * density + 0.25 * rim * body, 0, 1) * np.float32(rng.uniform(0.55, 0.95))
    scene.paint(color, alpha * scene.region)
    scene.gloss = scene.gloss * (1 - 0.7 * alpha * scene.region)


def hole(scene: Scene, rng: Generator, color: Color = (0.03, 0.03, 0.035)) -> None:
    """A hole or a deep pit with a raised, frayed edge."""
    radius = rng.uniform(0.025, 0.06)
    x, y = _around(scene, rng)
    distance = blob(rng, x, y, radius, roughness=0.16, lobes=9)
    inside = coverage(distance, softness=1.5) * scene.region
    rim = np.exp(-((distance / np.float32(0.012)) ** 2)) * scene.region
    scene.paint(np.clip(scene.albedo * 0.6 + 0.35, 0, 1), rim * np.float32(rng.uniform(0.2, 0.6)))
    scene.paint(color, inside)
    scene.height = scene.height * (1 - inside) + np.float32(0.004) * rim - np.float32(0.02) * inside
    scene.gloss = scene.gloss * (1 - inside)


def dent(scene: Scene, rng: Generator, depth: float = 0.02) -> None:
    """A smooth dimple, seen by its shading alone."""
    radius = rng.uniform(0.035, 0.075)
    x, y = _around(scene, rng)
    distance = blob(rng, x, y, radius, roughness=0.1, lobes=4)
    bowl = 1 - smoothstep(-radius, 0.25 * radius, distance)
    scene.height = scene.height - np.float32(depth * rng.uniform(0.7, 1.3) * radius / 0.05) * bowl * scene.region
    scene.gloss = scene.gloss + np.float32(0.1) * bowl * scene.region


def scuff(scene: Scene, rng: Generator, color: Color = (0.85, 0.84, 0.82)) -> None:
    """A rubbed patch: many short parallel scratches over a pale haze."""
    center = np.asarray(place(scene, rng, margin=0.15))
    angle = rng.uniform(0, np.pi)
    radius = rng.uniform(0.06, 0.11)
    paths = []
    for _ in range(rng.integers(14, 24)):
        start = center + rng.normal(0, 0.4 * radius, 2)
        points = walk(rng, (start[0], start[1]), angle + rng.normal(0, 0.12), rng.uniform(0.5, 1.4) * radius, 0.02)
        paths.append(points[::4] - (points[8] - points[0]))
    lines = strokes(scene.size, paths, 0.005)
    x, y = coordinates(scene.size)
    haze = np.exp(-((x - np.float32(center[0])) ** 2 + (y - np.float32(center[1])) ** 2) / np.float32(radius**2))
    haze = haze * np.clip(0.6 + 0.4 * fbm(rng, scene.size, 20, 2), 0, 1)
    alpha = np.clip(0.75 * lines + 0.45 * haze, 0, 1) * np.float32(rng.uniform(0.6, 1))
    scene.paint(color, alpha * scene.region)


def specks(scene: Scene, rng: Generator, colors: Sequence[Color] = ((0.1, 0.08, 0.07),)) -> None:
    """A group of grains or crumbs that lie on the surface."""
    center = np.asarray(place(scene, rng, margin=0.12))
    color = np.asarray(colors[int(rng.integers(len(colors)))])
    x, y = coordinates(scene.size)
    grains = np.zeros_like(scene.region)
    for _ in range(rng.integers(3, 8)):
        spot = center + rng.normal(0, 0.045, 2)
        distance = blob(rng, x - np.float32(spot[0]), y - np.float32(spot[1]), rng.uniform(0.008, 0.022), 0.25, 5)
        grains = np.maximum(grains, coverage(distance))
    grains = grains * scene.region
    scene.paint(color, grains * np.float32(rng.uniform(0.75, 1)))
    scene.height = scene.height + np.float32(0.008) * blur(grains, 0.004)


def fiber(scene: Scene, rng: Generator, colors: Sequence[Color] = ((0.75, 0.1, 0.12), (0.1, 0.25, 0.7))) -> None:
    """A curly hair or thread that lies on the surface."""
    color = colors[int(rng.integers(len(colors)))]
    start, angle = place(scene, rng, margin=0.15), rng.uniform(0, 2 * np.pi)
    points = np.concatenate([walk(rng, start, angle, 0.2, 0.3)[::-1], walk(rng, start, angle + np.pi, 0.2, 0.3)[1:]])
    line = stroke(scene.size, points, rng.uniform(0.007, 0.012)) * scene.region
    scene.paint(color, line * np.float32(rng.uniform(0.75, 1)))
    scene.height = scene.height + np.float32(0.005) * blur(line, 0.004)
