# SPDX-License-Identifier: Apache-2.0
"""A product with a fixed layout: an assembled circuit board."""

import numpy as np
from numpy.random import Generator

from .drawing import strokes
from .noise import fbm
from .primitives import Array, box, circle, coordinates, coverage, mix, move
from .scene import Fault, Scene, flat_scene

_CHIP = (0.0, -0.09)
_RESISTORS = ((-0.30, -0.26), (-0.30, -0.16), (-0.30, -0.06), (0.30, -0.26), (0.30, -0.16), (0.30, -0.06))
_CAPACITORS = ((-0.27, 0.21), (-0.08, 0.23), (0.11, 0.21))
_TRACES = (
    ((-0.26, -0.26), (-0.17, -0.26), (-0.13, -0.16)),
    ((-0.26, -0.16), (-0.13, -0.105)),
    ((-0.26, -0.06), (-0.13, -0.05)),
    ((0.26, -0.26), (0.18, -0.26), (0.13, -0.16)),
    ((0.26, -0.16), (0.13, -0.105)),
    ((0.26, -0.06), (0.13, -0.05)),
    ((-0.27, 0.21), (-0.20, 0.08), (-0.09, 0.05)),
    ((-0.08, 0.23), (-0.03, 0.12), (-0.03, 0.05)),
    ((0.11, 0.21), (0.06, 0.12), (0.03, 0.05)),
    ((0.36, 0.12), (0.24, 0.12), (0.09, 0.05)),
    ((0.36, 0.20), (0.25, 0.20), (0.20, 0.33), (-0.38, 0.33)),
)
_PADS = ((0.36, 0.12), (0.36, 0.20), (0.36, 0.28), (0.36, 0.36))
_HOLES = ((-0.41, -0.39), (0.41, -0.39), (-0.41, 0.39))


def circuit(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw an assembled circuit board: a chip, six resistors, three capacitors, traces and pads.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``missing_part``, ``rotated_part``, ``solder_bridge`` or ``cut_trace``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.82, 0.82, 0.80]) * rng.normal(1, 0.02))
    angle, shift = rng.normal(0, 0.025), rng.uniform(-0.015, 0.015, 2)
    x, y = move(*coordinates(size), angle, (shift[0], shift[1]))
    board = coverage(box(x, y, (0.46, 0.44), 0.03))
    scene.paint(np.asarray([0.07, 0.33, 0.20]) * rng.normal(1, 0.04), board)
    scene.albedo *= (1 + np.float32(0.05) * fbm(rng, size, 70, 2))[..., None]
    scene.gloss += board * np.float32(0.12)
    rotation = np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    _traces(scene, x, y, [np.asarray(points) @ rotation + shift for points in _TRACES], fault)
    missing, rotated = fault.pick("missing_part", 9), fault.pick("rotated_part", 10)
    for index, center in enumerate((*_RESISTORS, *_CAPACITORS)):
        jitter, turn = rng.normal(0, 0.002, 2), rng.normal(0, 0.02)
        part, part_x, part_y = scene.window(x, y, center, 0.09)
        if index == rotated:
            turn += fault.rng.choice([-1, 1]) * fault.rng.uniform(0.45, 1.4)
            jitter = jitter + fault.rng.uniform(-0.012, 0.012, 2)
        part_x, part_y = move(part_x, part_y, turn, (center[0] + jitter[0], center[1] + jitter[1]))
        draw = _resistor if index < len(_RESISTORS) else _capacitor
        draw(part, part_x, part_y, present=index != missing)
    chip_turn = fault.rng.choice([-1, 1]) * fault.rng.uniform(0.12, 0.35) if rotated == 9 else 0.0
    part, part_x, part_y = scene.window(x, y, _CHIP, 0.22)
    _chip(part, *move(part_x, part_y, chip_turn + rng.normal(0, 0.008), _CHIP), fault)
    scene.region = board
    return scene


def _traces(scene: Scene, x: Array, y: Array, traces: list[Array], fault: Fault) -> None:
    """Add copper lines, given in image coordinates, and pads and drills, placed in board coordinates."""
    size = scene.size
    line = strokes(size, traces, 0.013)
    if fault.kind == "cut_trace":
        points = traces[fault.pick("cut_trace", len(traces))]
        first, last = points[-2], points[-1]
        middle = first + (last - first) * fault.rng.uniform(0.3, 0.6)
        direction = float(np.arctan2(last[1] - first[1], last[0] - first[0]))
        gap_x, gap_y = move(*coordinates(size), direction, (middle[0], middle[1]))
        gap = coverage(box(gap_x, gap_y, (fault.rng.uniform(0.022, 0.04), fault.rng.uniform(0.016, 0.026)), 0.008), 3)
        line = line * (1 - gap)
        scene.paint((0.13, 0.16, 0.09), gap * np.float32(0.85))
    for pad in _PADS:
        line = np.maximum(line, coverage(circle(x, y, 0.026, pad)))
    scene.paint((0.72, 0.62, 0.30), line)
    scene.height += np.float32(0.002) * line
    np.maximum(scene.gloss, line * np.float32(0.3), out=scene.gloss)
    for pad in _PADS:
        part, part_x, part_y = scene.window(x, y, pad, 0.03)
        part.paint((0.15, 0.16, 0.15), coverage(circle(part_x, part_y, 0.011, pad), size=size))
    for hole in _HOLES:
        part, part_x, part_y = scene.window(x, y, hole, 0.05)
        distance = circle(part_x, part_y, 0.025, hole)
        part.paint((0.78, 0.68, 0.38), coverage(distance - np.float32(0.012), size=size))
        part.paint((0.80, 0.80, 0.78), coverage(distance, size=size))


def _solder(part: Scene, mask: Array) -> None:
    part.paint((0.74, 0.75, 0.77), mask)
    part.height += np.float32(0.006) * mask
    np.maximum(part.gloss, mask * np.float32(0.5), out=part.gloss)


def _resistor(part: Scene, x: Array, y: Array, *, present: bool) -> None:
    _solder(part, coverage(box(np.abs(x) - np.float32(0.036), y, (0.014, 0.024)), size=part.size))
    if present:
        body = coverage(box(x, y, (0.03, 0.022), 0.003), size=part.size)
        part.paint((0.09, 0.09, 0.10), body)
        part.paint((0.80, 0.80, 0.78), coverage(box(x, y, (0.012, 0.007)), size=part.size) * np.float32(0.8))
        part.height[:] = mix(part.height, 0.016, body)


def _capacitor(part: Scene, x: Array, y: Array, *, present: bool) -> None:
    size = part.size
    _solder(part, coverage(box(np.abs(x) - np.float32(0.03), y, (0.016, 0.016), 0.004), size=size))
    if present:
        distance = circle(x, y, 0.062)
        can = coverage(distance, size=size)
        part.paint((0.70, 0.71, 0.73), can)
        part.paint((0.12, 0.13, 0.17), can * coverage(x + np.float32(0.028), size=size))
        rim = coverage(np.abs(distance + np.float32(0.006)) - np.float32(0.003), size=size)
        part.paint((0.10, 0.10, 0.12), can * rim)
        np.maximum(part.height, np.float32(0.03) * coverage(distance, 5, size), out=part.height)
        np.maximum(part.gloss, can * np.float32(0.4), out=part.gloss)


def _chip(part: Scene, x: Array, y: Array, fault: Fault) -> None:
    size, step = part.size, np.float32(0.036)
    pin = np.mod(x + step / 2, step) - step / 2
    legs = np.maximum(box(pin, np.abs(y) - np.float32(0.125), (0.009, 0.022)), np.abs(x) - np.float32(0.125))
    _solder(part, coverage(legs, size=size))
    if fault.kind == "solder_bridge":
        at = (int(fault.rng.integers(-3, 3)) + 0.5) * float(step)
        side = fault.rng.choice([-1, 1]) * 0.14
        wide = fault.rng.uniform(0.032, 0.06)
        _solder(part, coverage(box(x - np.float32(at), y - np.float32(side), (wide, 0.024), 0.02), size=size))
    body = coverage(box(x, y, (0.125, 0.112), 0.006), size=size)
    part.paint((0.11, 0.11, 0.12), body)
    part.paint((0.24, 0.24, 0.25), coverage(circle(x, y, 0.014, (-0.095, 0.08)), size=size))
    for row, wide in ((-0.03, 0.075), (0.0, 0.06), (0.03, 0.07)):
        dash = np.mod(x, np.float32(0.022)) - np.float32(0.011)
        text = np.maximum(box(x, y - np.float32(row), (wide, 0.007)), np.abs(dash) - np.float32(0.008))
        part.paint((0.62, 0.62, 0.62), coverage(text, size=size) * np.float32(0.75))
    part.height[:] = mix(part.height, 0.022, body)
    part.gloss[:] = part.gloss * (1 - body) + np.float32(0.08) * body
