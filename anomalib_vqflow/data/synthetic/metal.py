# SPDX-License-Identifier: Apache-2.0
"""Metal products: brushed plate with holes, gear wheel, crown cap."""

import numpy as np
from numpy.random import Generator

from .noise import fbm, value_noise
from .primitives import Array, box, circle, coordinates, coverage, length, move, sample, smoothstep
from .scene import Fault, Scene, flat_scene


def bevel(distance: Array, width: float, height: float) -> Array:
    """Return a relief that rises from 0 at the outline of a shape to ``height`` at ``width`` inside it."""
    return np.float32(height) * (1 - smoothstep(-width, 0.0, distance))


def plate(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a brushed steel plate with four holes and a slot on a dark bench.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``missing_hole``, ``misplaced_hole`` or ``bent_corner``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.10, 0.11, 0.12]) * rng.normal(1, 0.06))
    scene.albedo = scene.albedo * (1 + np.float32(0.12) * fbm(rng, size, 60, 2))[..., None]
    x, y = move(*coordinates(size), rng.normal(0, 0.035), tuple(rng.uniform(-0.02, 0.02, 2)))
    brushed = sample(fbm(rng, size, (110, 4), 2), x, y)
    sheen = value_noise(rng, size, (3, 2))
    outline = box(x, y, (0.43, 0.36), 0.05)
    holes = [(-0.33, -0.26), (0.33, -0.26), (-0.33, 0.26), (0.33, 0.26)]
    missing, misplaced = fault.pick("missing_hole", 4), fault.pick("misplaced_hole", 4)
    distance = np.maximum(outline, -box(x, y, (0.15, 0.035), 0.035))
    for index, (hole_x, hole_y) in enumerate(holes):
        if index == missing:
            continue
        if index == misplaced:
            hole_x -= np.sign(hole_x) * fault.rng.uniform(0.05, 0.11)
            hole_y -= np.sign(hole_y) * fault.rng.uniform(0.02, 0.10)
        distance = np.maximum(distance, -circle(x, y, 0.045, (hole_x, hole_y)))
    if fault.kind == "bent_corner":
        sign_x, sign_y = fault.rng.choice([-1, 1], 2)
        fold = np.float32(sign_x) * x + np.float32(sign_y) * y - np.float32(fault.rng.uniform(0.52, 0.60))
        outline_shift = np.maximum(fold, 0) * np.float32(0.6)
        distance = np.maximum(distance, outline + outline_shift)
    inside = coverage(distance)
    steel = np.asarray([0.60, 0.62, 0.64]) * rng.normal(1, 0.02)
    tone = 1 + 0.09 * brushed + 0.05 * sheen
    scene.paint(steel.astype(np.float32) * tone[..., None], inside)
    scene.height = bevel(distance, 0.012, 0.010) + inside * np.float32(0.0006) * brushed
    if fault.kind == "bent_corner":
        scene.height = scene.height + inside * np.maximum(fold, 0) * np.float32(fault.rng.choice([-0.5, 0.5]))
    scene.gloss = inside * np.float32(0.25)
    scene.region = coverage(distance + np.float32(0.004))
    return scene


def gear(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a steel gear wheel of 18 teeth on a green belt, turned by any angle.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``broken_tooth`` (one or two), ``blocked_hole`` or ``bent_tooth``.

    Returns:
        The scene.
    """
    teeth = 18
    scene = flat_scene(size, np.asarray([0.17, 0.30, 0.24]) * rng.normal(1, 0.04))
    weave = np.sin(coordinates(size)[1] * np.float32(2 * np.pi * 45))
    scene.albedo = scene.albedo * (1 + np.float32(0.06) * weave + np.float32(0.05) * fbm(rng, size, 50, 2))[..., None]
    x, y = move(*coordinates(size), rng.uniform(0, 2 * np.pi), tuple(rng.uniform(-0.03, 0.03, 2)))
    radius, angle = length(x, y), np.arctan2(y, x)
    turn = angle * np.float32(teeth / (2 * np.pi))
    index = np.mod(np.round(turn), teeth).astype(np.intp)
    offset = turn - np.round(turn)
    reach = np.ones(teeth, dtype=np.float32)
    broken = fault.pick("broken_tooth", teeth)
    if broken >= 0:
        reach[[broken, (broken + int(fault.rng.integers(2))) % teeth]] = np.float32(fault.rng.uniform(0, 0.3))
    bent = fault.pick("bent_tooth", teeth)
    lean = np.where(index == bent, np.float32(fault.rng.choice([-1, 1]) * 5.5), 0) * np.maximum(radius - 0.31, 0)
    profile = smoothstep(0.18, 0.36, np.abs(offset + lean))
    outline = radius - (np.float32(0.395) - np.float32(0.085) * np.maximum(profile, 1 - reach[index]))
    distance = np.maximum(outline, -circle(x, y, 0.085))
    distance = np.maximum(distance, -box(x, y - np.float32(0.09), (0.025, 0.025)))
    blocked = fault.pick("blocked_hole", 5)
    for arm in range(5):
        if arm != blocked:
            center = (0.2 * np.cos(2 * np.pi * arm / 5), 0.2 * np.sin(2 * np.pi * arm / 5))
            distance = np.maximum(distance, -circle(x, y, 0.05, center))
    inside = coverage(distance * np.float32(0.7))
    turned = sample(fbm(rng, size, (3, 160), 2), angle * np.float32(1 / (2 * np.pi)), radius - np.float32(0.25))
    cast = fbm(rng, size, 70, 2)
    steel = np.asarray([0.55, 0.55, 0.56]) * rng.normal(1, 0.025)
    scene.paint(steel.astype(np.float32) * (1 + 0.05 * turned + 0.05 * cast)[..., None], inside)
    scene.height = bevel(distance, 0.02, 0.018) - np.float32(0.006) * coverage(np.abs(radius - 0.285) - 0.006, 3)
    scene.gloss = inside * np.float32(0.3)
    scene.region = coverage(distance + np.float32(0.006))
    return scene


def cap(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a crown cap of 21 flutes with a printed star on a conveyor, turned by any angle.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``bent_edge`` (flutes pressed in), ``missing_print`` or ``wrong_print``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.62, 0.61, 0.58]) * rng.normal(1, 0.02))
    scene.albedo = scene.albedo * (1 + np.float32(0.05) * fbm(rng, size, 30, 3))[..., None]
    x, y = move(*coordinates(size), rng.uniform(0, 2 * np.pi), tuple(rng.uniform(-0.03, 0.03, 2)))
    radius, angle = length(x, y), np.arctan2(y, x)
    flute = np.cos(angle * 21)
    pressed = np.zeros_like(x)
    if fault.kind == "bent_edge":
        apart = np.abs(np.mod(angle - np.float32(fault.rng.uniform(0, 2 * np.pi)) + np.pi, 2 * np.pi) - np.pi)
        pressed = 1 - smoothstep(0.0, fault.rng.uniform(0.3, 0.55), apart)
    outline = radius - (np.float32(0.40) + np.float32(0.016) * flute - np.float32(0.07) * pressed)
    inside = coverage(outline)
    shadow = coverage(length(x, y) - np.float32(0.425), 14)
    scene.albedo = scene.albedo * (1 - np.float32(0.45) * shadow)[..., None]
    red = np.asarray([0.66, 0.10, 0.11]) * rng.normal(1, 0.03)
    scene.paint(red, inside)
    ring = coverage(np.abs(radius - np.float32(0.255)) - np.float32(0.008))
    scene.paint((0.90, 0.86, 0.78), ring)
    print_turn = {"wrong_print": 1.0}.get(fault.kind, 0.0)
    star = _star(x, y, points=5 if not print_turn else int(fault.rng.choice([3, 4])))
    shown = np.float32(1 - fault.amount("missing_print", 0.8, 1.0))
    scene.paint((0.93, 0.88, 0.70), coverage(star) * shown)
    skirt = smoothstep(0.29, 0.38, radius)
    scene.height = np.float32(0.05) * (1 - smoothstep(0.26, 0.42, radius + np.float32(0.07) * pressed))
    scene.height = scene.height + np.float32(0.014) * skirt * flute * (1 - 0.6 * pressed)
    scene.height = (scene.height + np.float32(0.0004) * fbm(rng, size, 60, 2)) * inside
    scene.gloss = inside * np.float32(0.35)
    scene.region = coverage(radius - np.float32(0.36))
    return scene


def _star(x: Array, y: Array, points: int) -> Array:
    """Return the signed distance, roughly, to a star around the origin."""
    sector = np.float32(2 * np.pi / points)
    angle = np.abs(np.mod(np.arctan2(y, x), sector) - sector / 2)
    radius = length(x, y)
    inner, outer = 0.075, 0.19
    tip = np.asarray([outer * np.cos(sector / 2), outer * np.sin(sector / 2)])
    edge = tip - np.asarray([inner, 0])
    normal = np.asarray([edge[1], -edge[0]]) / np.linalg.norm(edge)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    return np.asarray((px - inner) * normal[0] + py * normal[1], dtype=np.float32)
