# SPDX-License-Identifier: Apache-2.0
"""Round parts: two-colored capsule and cut cable."""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from .noise import fbm, value_noise
from .primitives import Array, box, circle, coordinates, coverage, length, mix, move, smoothstep
from .scene import Fault, Scene, flat_scene


def capsule(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a hard capsule of two colors with an imprint, lying in any direction on a light table.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``squeezed``, ``missing_print``, ``wrong_color`` or ``short_shell`` (the cap sits too deep or too high).

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.86, 0.87, 0.88]) * rng.normal(1, 0.015))
    scene.albedo = scene.albedo * (1 + np.float32(0.02) * fbm(rng, size, 50, 2))[..., None]
    x, y = move(*coordinates(size), rng.uniform(0, 2 * np.pi), tuple(rng.uniform(-0.04, 0.04, 2)))
    half, radius = 0.40, 0.155
    waist = np.zeros_like(x)
    if fault.kind == "squeezed":
        middle, wide = np.float32(fault.rng.uniform(-0.22, 0.22)), np.float32(fault.rng.uniform(0.05, 0.09))
        side = np.float32(fault.rng.choice([-1, 1]))
        waist = np.exp(-(((x - middle) / wide) ** 2)) * np.float32(fault.rng.uniform(0.04, 0.07))
        waist = waist * smoothstep(-0.05, 0.12, side * y)
    body = box(x, y, (half, radius), radius) + waist
    seam = np.float32(0.03 + fault.amount("short_shell", 0.07, 0.13) * (1 if fault.rng.uniform() < 0.5 else -1))
    lid = coverage(seam - x)
    lid_outline = box(x, y, (half + 0.006, radius + 0.008), radius) + waist
    outline = np.where(x > seam, lid_outline, body)
    shadow = coverage(box(x - np.float32(0.012), y - np.float32(0.012), (half, radius), radius) - np.float32(0.01), 16)
    scene.albedo = scene.albedo * (1 - np.float32(0.35) * shadow)[..., None]
    inside = coverage(outline)
    yellow = np.asarray([0.88, 0.68, 0.16]) * rng.normal(1, 0.02, 3)
    blue = np.asarray([0.13, 0.33, 0.58]) * rng.normal(1, 0.02, 3)
    if fault.kind == "wrong_color":
        other = np.asarray([[0.30, 0.55, 0.28], [0.62, 0.20, 0.25], [0.45, 0.40, 0.60]])[fault.rng.integers(3)]
        yellow, blue = (other, blue) if fault.rng.uniform() < 0.5 else (yellow, other)
    scene.paint(mix(blue, yellow, lid[..., None]), inside)
    scene.paint((0.05, 0.12, 0.22), inside * coverage(np.abs(x - seam) - np.float32(0.004)) * np.float32(0.7))
    ink = _imprint(x, y) * np.float32(1 - fault.amount("missing_print", 0.85, 1.0))
    scene.paint((0.12, 0.12, 0.16), ink * inside * np.float32(0.85))
    dome = np.sqrt(np.maximum(np.float32(radius**2) - np.maximum(outline + np.float32(radius), 0) ** 2, 0))
    scene.height = np.float32(0.55) * dome + np.float32(0.0003) * fbm(rng, size, 40, 2)
    scene.height = scene.height - np.float32(1.2) * waist * inside
    scene.gloss = inside * np.float32(0.55)
    scene.region = coverage(body + np.float32(0.02))
    return scene


def _imprint(x: Array, y: Array) -> Array:
    """Return the printed mark of both halves: bars and a ring, as on a coded capsule."""
    bars = [box(x - np.float32(at), y, (0.008, 0.045)) for at in (-0.26, -0.225, -0.17)]
    mark = np.minimum(np.minimum(bars[0], bars[1]), bars[2])
    mark = np.minimum(mark, box(x + np.float32(0.11), y, (0.03, 0.008)))
    ring = np.abs(circle(x, y, 0.038, (0.17, 0.0))) - np.float32(0.008)
    return coverage(np.minimum(mark, np.minimum(ring, box(x - np.float32(0.255), y, (0.008, 0.045)))))


def cable(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a cut cable: gray sheath around three insulated wires of copper strands.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``missing_wire``, ``swapped_wire``, ``cut_insulation`` or ``missing_strands``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.16, 0.15, 0.15]) * rng.normal(1, 0.05))
    scene.albedo = scene.albedo * (1 + np.float32(0.12) * fbm(rng, size, 40, 3))[..., None]
    turn = rng.normal(0, 0.12)
    x, y = move(*coordinates(size), turn, tuple(rng.uniform(-0.025, 0.025, 2)))
    sheath = circle(x, y, 0.43) + np.float32(0.004) * value_noise(rng, size, 8)
    inside = coverage(sheath)
    scene.paint(np.asarray([0.56, 0.57, 0.58]) * rng.normal(1, 0.02), inside)
    scene.albedo = scene.albedo * (1 + np.float32(0.05) * inside * fbm(rng, size, 60, 3))[..., None]
    scene.height = np.float32(0.03) * (1 - smoothstep(-0.05, 0.0, sheath))
    missing, swapped = fault.pick("missing_wire", 3), fault.pick("swapped_wire", 3)
    colors = [np.asarray([0.16, 0.36, 0.68]), np.asarray([0.42, 0.24, 0.13]), np.asarray([0.42, 0.60, 0.18])]
    if swapped >= 0:
        colors[swapped] = colors[(swapped + 1) % 3]
    damaged = {kind: fault.pick(kind, 3) for kind in ("cut_insulation", "missing_strands")}
    scene.gloss = inside * np.float32(0.1)
    for index, color in enumerate(colors):
        angle = -np.pi / 2 + index * 2 * np.pi / 3
        center = rng.normal(0, 0.006, 2) + 0.205 * np.asarray([np.cos(angle), np.sin(angle)])
        spin, tint = rng.uniform(0, np.pi / 3), rng.normal(1, 0.03)
        part, wire_x, wire_y = scene.window(x, y, (center[0], center[1]), 0.18)
        wire_x, wire_y = move(wire_x, wire_y, spin, (center[0], center[1]))
        if index == missing:
            pit = coverage(circle(wire_x, wire_y, 0.155), 4, size)
            part.paint((0.07, 0.07, 0.07), pit * np.float32(0.92))
            part.height -= np.float32(0.03) * pit
            continue
        loss = {kind: fault.rng if hit == index else None for kind, hit in damaged.items()}
        _wire(part, wire_x, wire_y, color * tint, loss["cut_insulation"], loss["missing_strands"])
    scene.region = inside
    return scene


def _wire(
    scene: Scene, x: Array, y: Array, color: ArrayLike, cut: Generator | None = None, torn: Generator | None = None
) -> None:
    """Add one insulated wire to a cut-out: colored ring, copper strands on a hexagonal grid."""
    jacket = circle(x, y, 0.16)
    ring = coverage(jacket, size=scene.size)
    if cut is not None:
        at = cut.uniform(0, 2 * np.pi)
        notch_x, notch_y = move(x, y, at, (0.135 * np.cos(at), 0.135 * np.sin(at)))
        notch = np.maximum(jacket, box(notch_x, notch_y, (0.035, cut.uniform(0.035, 0.075)), 0.02))
        gap = coverage(notch, size=scene.size)
        ring = ring * (1 - gap)
        scene.paint((0.10, 0.09, 0.09), gap)
    scene.paint(color, ring)
    scene.height += np.float32(0.025) * (1 - smoothstep(-0.03, 0.0, jacket)) * ring
    np.maximum(scene.gloss, ring * np.float32(0.25), out=scene.gloss)
    scene.paint((0.16, 0.09, 0.06), coverage(circle(x, y, 0.105), size=scene.size))
    pitch = 0.041
    row = np.round(y / np.float32(pitch * 0.866))
    shift = np.float32(0.5) * np.mod(row, 2)
    strand_x = (np.round(x / np.float32(pitch) - shift) + shift) * np.float32(pitch)
    strand_y = row * np.float32(pitch * 0.866)
    keep = length(strand_x, strand_y) < 0.088
    if torn is not None:
        center = torn.uniform(-0.05, 0.05, 2).astype(np.float32)
        keep = keep & (length(strand_x - center[0], strand_y - center[1]) > torn.uniform(0.045, 0.07))
    distance = length(x - strand_x, y - strand_y) - np.float32(0.019)
    strand = coverage(distance, size=scene.size) * keep
    scene.paint((0.80, 0.47, 0.28), strand)
    scene.height += strand * np.float32(0.4) * np.sqrt(np.maximum(-distance, 0) * np.float32(0.02))
    np.maximum(scene.gloss, strand * np.float32(0.5), out=scene.gloss)
