# SPDX-License-Identifier: Apache-2.0

"""Figure formulas of the pretext task: one composed shape per picture, centered, on an empty ground.

Like the textures, a class is one random draw of a formula's parameters; its instances differ by a small jitter.
"""

import numpy as np
from numpy.random import Generator

from .textures import Array, blur, plane, splat


def fractal(rng: Generator, num: int, size: int) -> Array:
    """The attractor of a random iterated function system, drawn by the chaos game."""
    count = int(rng.integers(3, 7))
    while True:
        turn, scale = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.25, 0.8, (count, 2))
        flip, move = rng.choice([-1.0, 1.0], count), rng.uniform(-1, 1, (count, 2))
        area = np.prod(scale, axis=1)
        if area.sum() > 0.7:  # thinner systems give little more than dust
            break
    cos, sin = np.cos(turn), np.sin(turn)
    maps = np.stack([scale[:, 0] * cos, -scale[:, 1] * sin * flip, scale[:, 0] * sin, scale[:, 1] * cos * flip], 1)
    jitter = 1 + rng.uniform(-0.06, 0.06, (num, count, 4))
    table = (maps * jitter).astype(np.float32)  # (num, count, 4)
    chains = rng.uniform(-1, 1, (2, num, 400)).astype(np.float32)
    which, rows = rng.choice(count, (45, num, 400), p=area / area.sum()), np.arange(num)[:, None]
    trail = []
    for step, choice in enumerate(which):
        a = table[rows, choice]  # (num, chains, 4)
        x = a[..., 0] * chains[0] + a[..., 1] * chains[1] + move[choice, 0]
        y = a[..., 2] * chains[0] + a[..., 3] * chains[1] + move[choice, 1]
        chains = np.stack([x, y]).astype(np.float32)
        if step >= 15:
            trail.append(chains)
    points = np.concatenate(trail, axis=2)  # (2, num, points)
    low, high = np.quantile(points, 0.01, axis=2, keepdims=True), np.quantile(points, 0.99, axis=2, keepdims=True)
    points = (points - (low + high) / 2) / ((high - low).max(axis=0, keepdims=True) + 1e-6) * rng.uniform(0.7, 0.95)
    density = splat(points[0], points[1], size)
    return blur(np.log1p(density), 0.6)


def parts(rng: Generator, num: int, size: int) -> Array:
    """Three to seven ellipses, boxes, rings and polygons painted over each other at fixed places."""
    x, y = plane(size)
    fields = np.zeros((num, size, size), dtype=np.float32)
    for index in range(rng.integers(3, 8)):
        reach = 0.38 if index == 0 else rng.uniform(0.05, 0.22)
        center, turn = rng.uniform(-0.28, 0.28, 2) * (index > 0), rng.uniform(0, np.pi)
        aspect, kind, level = np.exp(rng.uniform(-0.8, 0.8)), rng.integers(4), rng.uniform(0.15, 1)
        corners, stripes = rng.integers(3, 8), rng.choice([0.0, 0.0, 1.0]) * rng.uniform(10, 40)
        jitter = rng.uniform(-0.015, 0.015, (3, num, 1, 1)).astype(np.float32)
        dx, dy = x - center[0] - jitter[0], y - center[1] - jitter[1]
        angle = turn + 5 * jitter[2]
        u = (np.cos(angle) * dx + np.sin(angle) * dy) * np.sqrt(aspect)
        v = (np.cos(angle) * dy - np.sin(angle) * dx) / np.sqrt(aspect)
        if kind == 0:
            inside = reach - np.hypot(u, v)
        elif kind == 1:
            inside = reach - np.maximum(np.abs(u), np.abs(v))
        elif kind == 2:
            inside = reach * 0.3 - np.abs(np.hypot(u, v) - reach * 0.8)
        else:
            theta = np.mod(np.arctan2(v, u), 2 * np.pi / corners) - np.pi / corners
            inside = reach * np.cos(np.pi / corners) - np.hypot(u, v) * np.cos(theta)
        paint = level * (1 - 0.4 * (np.sin(2 * np.pi * stripes * u) > 0)) if stripes else level
        cover = 1 / (1 + np.exp(-np.clip(inside * size * 2, -30, 30)))
        fields = fields * (1 - cover) + cover * paint
    return fields.astype(np.float32)


def radial(rng: Generator, num: int, size: int) -> Array:
    """Rings, spokes and spirals inside a star-shaped outline."""
    x, y = plane(size)
    jitter = rng.uniform(-0.02, 0.02, (2, num, 1, 1)).astype(np.float32)
    radius, angle = np.hypot(x - jitter[0], y - jitter[1]), np.arctan2(y - jitter[1], x - jitter[0])
    outline, fields = np.full_like(radius, rng.uniform(0.3, 0.44)), np.zeros_like(radius)
    for order in rng.integers(1, 9, 2):
        outline = outline * (1 + rng.uniform(-0.2, 0.2) * np.cos(order * angle + rng.uniform(0, 6.3)))
    for _ in range(rng.integers(1, 4)):
        arms, rings, twist = rng.integers(0, 13), rng.uniform(0, 14), rng.uniform(-3, 3)
        ratio = radius / outline
        wave = np.sin(arms * angle + 2 * np.pi * rings * ratio / 2 + twist * np.log(radius + 0.05) * arms)
        fields = fields + rng.uniform(0.3, 1) * np.tanh(rng.uniform(0.5, 6) * (wave - rng.uniform(-0.6, 0.6)))
    cover = 1 / (1 + np.exp(-np.clip((outline - radius) * size * 2, -30, 30)))
    return (cover * (1.2 + 0.5 * fields)).astype(np.float32)


def glyph(rng: Generator, num: int, size: int) -> Array:
    """Two to six thick curved strokes, like a letter of an unknown script."""
    fields = np.zeros((num, size, size), dtype=np.float32)
    time = np.linspace(0, 1, size, dtype=np.float32)
    basis = np.stack([(1 - time) ** 2, 2 * time * (1 - time), time**2])  # quadratic Bezier
    for _ in range(rng.integers(2, 7)):
        knots, sigma, level = rng.uniform(-0.42, 0.42, (2, 1, 3)), rng.uniform(0.8, 4), rng.uniform(0.4, 1)
        knots = knots + rng.uniform(-0.03, 0.03, (2, num, 3))
        x, y = (knots @ basis).astype(np.float32)
        ink = blur(np.minimum(splat(x, y, size), 1), sigma)
        fields = np.maximum(fields, level * np.clip(ink / max(2.0, 2 * sigma), 0, 1))
    return fields.astype(np.float32)


def orbit(rng: Generator, num: int, size: int) -> Array:
    """A closed curve of three turning arms: rosettes and knots."""
    time = np.linspace(0, 2 * np.pi, 24 * size, dtype=np.float32)
    orders = rng.choice([-11, -7, -5, -4, -3, -2, 1, 2, 3, 4, 5, 6, 8, 9], 3, replace=False)
    arms = rng.uniform(0.2, 1, 3)
    arms, phases, sigma = arms / arms.sum() * 0.45, rng.uniform(0, 6.3, 3), rng.uniform(0.5, 2.0)
    fill = rng.uniform(0, 0.9)
    curve = np.zeros((num, time.size), dtype=np.complex64)
    for order, arm, phase in zip(orders, arms, phases, strict=True):
        curve += arm * rng.uniform(0.92, 1.08, (num, 1)) * np.exp(1j * (order * time + phase))
    ink = np.clip(blur(np.minimum(splat(curve.real, curve.imag, size), 1), sigma), 0, 2)
    x, y = plane(size)
    disc = 1 / (1 + np.exp(-np.clip((0.46 - np.hypot(x, y)) * size * 2, -30, 30)))
    return (fill * disc + (1 - fill) * ink * rng.choice([-1.0, 1.0])).astype(np.float32)


FIGURES = (fractal, parts, radial, glyph, orbit)
