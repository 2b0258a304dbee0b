# SPDX-License-Identifier: Apache-2.0
"""A product with a fixed layout: a printed paper label."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from .noise import fbm
from .primitives import Array, blur, box, circle, coordinates, coverage, move, sample
from .scene import Fault, Scene, flat_scene

# Letters of 5 x 7 dots: for each of the seven rows, from the top, two hexadecimal digits whose low five bits are dots.
_GLYPHS = {
    "A": "0e11111f111111",
    "B": "1e11111e11111e",
    "C": "0e11101010110e",
    "D": "1c12111111121c",
    "E": "1f10101e10101f",
    "G": "0e11101713110f",
    "I": "0e04040404040e",
    "K": "11121418141211",
    "L": "1010101010101f",
    "M": "111b1515111111",
    "N": "11191513111111",
    "O": "0e11111111110e",
    "P": "1e11111e101010",
    "Q": "0e11111115120d",
    "R": "1e11111e141211",
    "S": "0f10100e01011e",
    "T": "1f040404040404",
    "V": "11111111110a04",
    "W": "11111115151b11",
    "0": "0e11131519110e",
    "1": "040c040404040e",
    "2": "0e11010204081f",
    "4": "02060a121f0202",
    "5": "1f101e0101110e",
    "6": "0608101e11110e",
    "8": "0e11110e11110e",
    "-": "0000000e000000",
    " ": "00000000000000",
}
_HEAD = "VALVE KIT 280"
_LINES = (
    "WORKING LIMIT 16 BAR",
    "MATERIAL STEEL 1-4401",
    "SEAL OK  MEDIA WATER",
    "LOT 2148-06",
    "DN 25 PN 16",
    "REV 1-52",
)
_CANVAS = 512  # side of the print in pixels: dots are three pixels wide
_DOT = 3
_TOP, _PITCH, _LEFT = 207, 39, 64  # first line of text, distance of lines and left edge, in pixels of the print


def label(size: int, rng: Generator, fault: Fault) -> Scene:
    """Draw a paper label on a cardboard box: colored head, emblem, lines of text and a bar code.

    Args:
        size: Side of the image in pixels.
        rng: Look of this piece.
        fault: ``missing_text``, ``smeared_print``, ``torn_corner``, ``crease`` or ``misplaced_print``.

    Returns:
        The scene.
    """
    scene = flat_scene(size, np.asarray([0.62, 0.47, 0.32]) * rng.normal(1, 0.025))
    flutes = np.sin(coordinates(size)[1] * np.float32(2 * np.pi * 16))
    scene.albedo *= (1 + 0.03 * flutes + np.float32(0.05) * fbm(rng, size, (80, 30), 2))[..., None]
    x, y = move(*coordinates(size), rng.normal(0, 0.03), tuple(rng.uniform(-0.02, 0.02, 2)))
    outline = box(x, y, (0.43, 0.37), 0.02)
    if fault.kind == "torn_corner":
        outline = np.maximum(outline, _tear(x, y, fault.rng))
    paper = coverage(outline)
    grain = fbm(rng, size, 80, 2)
    scene.paint((0.93, 0.92, 0.88) * (1 + np.float32(0.012) * grain)[..., None], paper)
    head = coverage(box(x, y + np.float32(0.25), (0.40, 0.09), 0.01))
    scene.paint(np.asarray([0.70, 0.22, 0.15]) * rng.normal(1, 0.02, 3), head * paper)
    ring = coverage(np.abs(circle(x, y, 0.043, (-0.325, -0.25))) - np.float32(0.011))
    scene.paint((0.95, 0.93, 0.88), np.maximum(ring, sample(_text(size, "head"), x, y)) * paper)
    scene.paint((0.10, 0.10, 0.12), _ink(size, x, y, fault) * paper * np.float32(0.92))
    scene.height = np.float32(0.004) * paper + np.float32(0.0002) * grain
    scene.gloss = paper * np.float32(0.04)
    scene.region = coverage(outline + np.float32(0.01))
    if fault.kind == "crease":
        _crease(scene, x, y, fault.rng)
    return scene


@lru_cache(maxsize=32)
def _text(size: int, part: str) -> Array:
    """Return the print of the head, of one line or of the bar code, ready for images of ``size`` pixels."""
    canvas = np.zeros((_CANVAS, _CANVAS), dtype=np.float32)
    if part == "head":
        _write(canvas, _HEAD, 132, 114, 2 * _DOT - 2)
    elif part == "code":
        modules = np.unpackbits(np.frombuffer(b"VQ-280-2148", dtype=np.uint8))[:60]
        canvas[322:424, 272:452] = np.repeat(modules, 3).astype(np.float32)
    else:
        _write(canvas, _LINES[int(part)], _LEFT, _TOP + _PITCH * int(part), _DOT)
    side = min(2 * size, _CANVAS)
    return np.asarray(cv2.resize(blur(canvas, 0.0015), (side, side), interpolation=cv2.INTER_AREA))


def _write(canvas: Array, text: str, left: int, top: int, dot: int) -> None:
    for position, letter in enumerate(text):
        rows = np.frombuffer(bytes.fromhex(_GLYPHS[letter]), dtype=np.uint8)
        dots = np.unpackbits(rows[:, None], axis=1)[:, 3:]
        start = left + position * 6 * dot
        canvas[top : top + 7 * dot, start : start + 5 * dot] = np.kron(dots, np.ones((dot, dot), dtype=np.uint8))


def _ink(size: int, x: Array, y: Array, fault: Fault) -> Array:
    """Return the mask of black ink: six lines of text and the bar code."""
    code_x, code_y = x, y
    if fault.kind == "misplaced_print":
        push = fault.rng.choice([-1, 1], 2) * fault.rng.uniform(0.01, 0.04, 2)
        code_x, code_y = move(x, y, 0, (0.207 + push[0], 0.228 + push[1]))
        code_x, code_y = move(code_x, code_y, fault.rng.choice([-1, 1]) * fault.rng.uniform(0.05, 0.25))
        code_x, code_y = move(code_x, code_y, 0, (-0.207, -0.228))
    if fault.kind == "smeared_print":
        x, y = _smear(x, y, fault.rng)
        code_x, code_y = x, y
    lost = fault.pick("missing_text", len(_LINES))
    lines = [_text(size, str(line)) for line in range(len(_LINES)) if line != lost]
    text = sample(np.maximum.reduce(lines), x, y)
    return np.maximum(text, sample(_text(size, "code"), code_x, code_y))


def _smear(x: Array, y: Array, rng: Generator) -> tuple[Array, Array]:
    """Drag the print sideways around a random point."""
    center = rng.uniform([-0.25, -0.05], [0.25, 0.25]).astype(np.float32)
    near = np.exp(-(((x - center[0]) / np.float32(0.16)) ** 2) - ((y - center[1]) / np.float32(0.09)) ** 2)
    push = np.float32(rng.choice([-1, 1]) * rng.uniform(0.05, 0.09)) * near
    wave = np.float32(0.02) * near * np.sin(x * np.float32(60) + np.float32(rng.uniform(0, 6)))
    return x + push, y + wave


def _tear(x: Array, y: Array, rng: Generator) -> Array:
    """Return the signed distance to what a ragged tear across a random corner leaves."""
    sign_x, sign_y = rng.choice([-1, 1], 2).astype(np.float32)
    edge = sign_x * x * np.float32(rng.uniform(0.7, 1.2)) + sign_y * y - np.float32(rng.uniform(0.46, 0.6))
    return edge * np.float32(0.7) + np.float32(0.012) * fbm(rng, x.shape[0], 12, 3)


def _crease(scene: Scene, x: Array, y: Array, rng: Generator) -> None:
    """Fold the paper along a line through its middle part."""
    x, y = move(x, y, rng.uniform(0, np.pi), tuple(rng.uniform(-0.18, 0.18, 2)))
    bent = y + np.float32(0.01) * np.sin(x * np.float32(9))
    ridge = np.exp(-np.abs(bent) / np.float32(0.014)) * coverage(np.abs(x) - np.float32(rng.uniform(0.18, 0.4)), 12)
    scene.height = scene.height + np.float32(rng.choice([-1, 1]) * 0.016) * ridge * scene.region
    worn = np.exp(-((bent / np.float32(0.004)) ** 2)) * ridge * scene.region
    scene.paint((0.97, 0.96, 0.94), worn * np.float32(0.8))
