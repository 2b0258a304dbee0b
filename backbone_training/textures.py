# SPDX-License-Identifier: Apache-2.0

"""Texture formulas of the pretext task: a class is one random draw of a formula's parameters, an instance one picture.

Every function takes the class's random generator, draws the parameters that define the class first and then draws
``num`` pictures of it. Frequencies and lengths are in cycles and fractions of the picture's side. Pictures are gray
float32 arrays of shape ``(num, size, size)`` in no particular range.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]


def plane(size: int) -> tuple[Array, Array]:
    """Return pixel coordinates in (-0.5, 0.5), x to the right and y down, shapes ``(size, size)``."""
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def spectrum_filter(fields: Array, amplitude: Array) -> Array:
    """Multiply the Fourier transform of pictures by an amplitude per frequency.

    Args:
        fields: Pictures of shape ``(num, size, size)``.
        amplitude: Amplitudes of shape ``(size, size // 2 + 1)``, as ``rfft2`` orders them.

    Returns:
        The filtered pictures, periodic at the borders, of zero mean and unit deviation.
    """
    size = fields.shape[-1]
    filtered = np.fft.irfft2(np.fft.rfft2(fields) * amplitude, s=(size, size)).astype(np.float32)
    filtered -= filtered.mean(axis=(1, 2), keepdims=True)
    return np.asarray(filtered / (filtered.std(axis=(1, 2), keepdims=True) + 1e-6), dtype=np.float32)


def lobe(rng: Generator, size: int, low: float, high: float) -> Array:
    """Return a random band of the spectrum, oriented or isotropic, between two frequencies in cycles per side."""
    fx, fy = np.fft.rfftfreq(size, 1 / size)[None, :], np.fft.fftfreq(size, 1 / size)[:, None]
    radius, angle = np.hypot(fx, fy), np.arctan2(fy, fx)
    center = np.exp(rng.uniform(np.log(low), np.log(high)))
    band = np.exp(-((np.log(radius + 1e-3) - np.log(center)) ** 2) / (2 * rng.uniform(0.08, 0.5) ** 2))
    if rng.random() < 0.6:
        turn, focus = rng.uniform(0, np.pi), rng.uniform(0.5, 20)
        band *= np.exp(focus * (np.cos(2 * (angle - turn)) - 1))
    return np.asarray(band, dtype=np.float32)


def bend(rng: Generator, fields: Array) -> Array:
    """Pass pictures of unit deviation through one of several non-linear curves, drawn by the class."""
    kind, gain, level = rng.integers(7), rng.uniform(1.0, 4.0), rng.uniform(-1.0, 1.0)
    curves = (
        lambda z: z,
        np.abs,
        lambda z: np.tanh(4 * gain * (z - level)),
        lambda z: np.sin(gain * z),
        lambda z: np.floor(z * gain),
        lambda z: np.maximum(z - level, 0),
        lambda z: np.exp(-((z - level) ** 2) * 4 * gain),
    )
    return np.asarray(curves[kind](fields), dtype=np.float32)


def spectral(rng: Generator, num: int, size: int) -> Array:
    """Noise with one to three random bands in its spectrum."""
    amplitude = np.zeros((size, size // 2 + 1), dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        amplitude += rng.uniform(0.3, 1) * lobe(rng, size, 2, 36)
    curve = np.random.default_rng(rng.integers(2**32))
    return bend(curve, spectrum_filter(rng.standard_normal((num, size, size), dtype=np.float32), amplitude))


def warped(rng: Generator, num: int, size: int) -> Array:
    """Stripes or rings of a random wave form, bent by noise."""
    x, y = plane(size)
    frequency, turn, strength = rng.uniform(3, 24), rng.uniform(0, np.pi), rng.uniform(0.0, 1.2)
    sharpness, amplitude = rng.uniform(0.5, 5), lobe(rng, size, 1.5, 10)
    noise = spectrum_filter(rng.standard_normal((num, size, size), dtype=np.float32), amplitude)
    phase = frequency * (np.cos(turn) * x + np.sin(turn) * y) + strength * noise + rng.random((num, 1, 1))
    return np.tanh(sharpness * np.sin(2 * np.pi * phase)).astype(np.float32)


def waves(rng: Generator, num: int, size: int) -> Array:
    """Sums of two to six plane waves: lattices and quasi-crystals."""
    x, y = plane(size)
    count = int(rng.integers(2, 7))
    base, star = rng.uniform(4, 28), rng.random() < 0.5
    turns = rng.uniform(0, np.pi) + (np.pi * np.arange(count) / count if star else rng.uniform(0, np.pi, count))
    frequencies = base * (np.ones(count) if star else rng.uniform(0.4, 1.6, count))
    curve = np.random.default_rng(rng.integers(2**32))
    fields = np.zeros((num, size, size), dtype=np.float32)
    for turn, frequency in zip(turns, frequencies, strict=True):
        phase = frequency * (np.cos(turn) * x + np.sin(turn) * y) + rng.random((num, 1, 1))
        fields += np.sin(2 * np.pi * phase.astype(np.float32))
    return bend(curve, fields / np.float32(np.sqrt(count / 2)))


def cells(rng: Generator, num: int, size: int) -> Array:
    """Cellular noise: distances to the nearest of jittered lattice points."""
    count, jitter, power = int(rng.integers(4, 18)), rng.uniform(0.2, 1.0), rng.choice([1.0, 2.0, 4.0])
    stretch, mix = np.exp(rng.uniform(-0.7, 0.7)), rng.uniform(-1, 1, 3)
    x, y = plane(size)
    u, v = (x + 0.5) * count, (y + 0.5) * count
    points = rng.uniform(0.5 - jitter / 2, 0.5 + jitter / 2, (num, count + 2, count + 2, 2)).astype(np.float32)
    values = rng.random((num, count + 2, count + 2), dtype=np.float32)
    column, row = u.astype(int), v.astype(int)
    first = np.full((num, size, size), 9, dtype=np.float32)
    second, value = first.copy(), np.zeros_like(first)
    for step in range(9):
        i, j = row + step // 3, column + step % 3  # lattice index, shifted by one
        du = np.abs(points[:, i, j, 0] + (j - 1 - u)) * stretch
        dv = np.abs(points[:, i, j, 1] + (i - 1 - v)) / stretch
        distance = (du**power + dv**power) ** (1 / power)
        closer = distance < first
        second = np.where(closer, first, np.minimum(second, distance))
        first, value = np.where(closer, distance, first), np.where(closer, values[:, i, j], value)
    ridge = np.tanh(8 * (second - first))
    return np.asarray(mix[0] * first * 1.5 + mix[1] * ridge + mix[2] * value, dtype=np.float32)


def tiling(rng: Generator, num: int, size: int) -> Array:
    """A star-shaped motif repeated on a skewed or staggered lattice, each copy a little different."""
    count, aspect, turn = rng.uniform(3, 13), np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, np.pi)
    stagger, lean = rng.choice([0.0, 0.5, 0.33]), rng.uniform(-0.4, 0.4)
    harmonics, ripple = rng.integers(1, 8, 3), rng.uniform(-0.25, 0.25, 3)
    radius, spin, wobble, hole = rng.uniform(0.25, 0.48), rng.uniform(0, 6.3), rng.uniform(0, 0.5), rng.uniform(0, 0.8)
    shade = rng.uniform(0, 1)
    x, y = plane(size)
    shift = rng.random((num, 2, 1, 1)).astype(np.float32)
    u = count * (np.cos(turn) * x + np.sin(turn) * y) + shift[:, 0]
    v = count * aspect * (np.cos(turn) * y - np.sin(turn) * x) + shift[:, 1]
    row = np.floor(v)
    u = u + stagger * (row % 2) + lean * (v - row)
    column = np.floor(u)
    tag = np.sin(row * 12.9898 + column * 78.233) * 43758.5453  # one pseudo-random number per cell
    tag = (tag - np.floor(tag)).astype(np.float32)
    du, dv = u - column - 0.5, v - row - 0.5
    angle, distance = np.arctan2(dv, du) + spin + wobble * 6 * (tag - 0.5), np.hypot(du, dv)
    outline = radius * (1 + sum(a * np.cos(k * angle) for k, a in zip(harmonics, ripple, strict=True)))
    outline = outline * (1 + wobble * (tag - 0.5))
    body = 1 / (1 + np.exp(-40 * (outline - distance)))
    core = 1 / (1 + np.exp(-40 * (outline * hole - distance)))
    return np.asarray(body * (1 - 0.5 * shade * tag) - rng.choice([0.0, 1.0]) * core, dtype=np.float32)


def reaction(rng: Generator, num: int, size: int) -> Array:
    """Spots and labyrinths: noise sharpened again and again by one difference-like band filter."""
    amplitude, gain, level = lobe(rng, size, 5, 26), rng.uniform(0.8, 4), rng.uniform(-0.6, 0.6)
    fields = rng.standard_normal((num, size, size), dtype=np.float32)
    for _ in range(6):
        fields = np.tanh(gain * (spectrum_filter(fields, amplitude) - level)).astype(np.float32)
    return fields


def splat(x: Array, y: Array, size: int) -> Array:
    """Count points per pixel.

    Args:
        x: Positions in (-0.5, 0.5), shape ``(num, points)``; those outside the picture are dropped.
        y: Likewise.
        size: Side of the pictures in pixels.

    Returns:
        Pictures of shape ``(num, size, size)``.
    """
    num = x.shape[0]
    column, row = np.floor((x + 0.5) * size).astype(int), np.floor((y + 0.5) * size).astype(int)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    index = ((np.arange(num)[:, None] * size + row) * size + column)[inside]
    total = np.bincount(index, minlength=num * size * size)
    return total.reshape(num, size, size).astype(np.float32)


def blur(fields: Array, sigma: float) -> Array:
    """Blur pictures with a Gaussian of ``sigma`` pixels, periodic at the borders, peak of a single point kept at 1."""
    size = fields.shape[-1]
    fx, fy = np.fft.rfftfreq(size)[None, :], np.fft.fftfreq(size)[:, None]
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2)) * max(2 * np.pi * sigma**2, 1.0)
    return np.fft.irfft2(np.fft.rfft2(fields) * transfer, s=(size, size)).astype(np.float32)


def strokes(rng: Generator, num: int, size: int) -> Array:
    """One or two sets of fibers, scratches or grains scattered over the picture."""
    fields = np.zeros((num, size, size), dtype=np.float32)
    for _ in range(rng.integers(1, 3)):
        length, curl = np.exp(rng.uniform(np.log(0.01), np.log(0.6))), rng.uniform(0, 8)
        turn, spread, sigma = rng.uniform(0, np.pi), rng.choice([0.1, 0.4, 3.2]), rng.uniform(0.4, 2.2)
        count = int(np.clip(rng.uniform(0.05, 0.5) * size / (sigma * max(length, 2 * sigma / size) * 2), 8, 500))
        steps = int(length * size * 1.5) + 1
        angle = turn + spread * rng.uniform(-1, 1, (num, count, 1)) + np.linspace(-0.5, 0.5, steps) * curl * length
        start = rng.uniform(-0.6, 0.6, (2, num, count, 1))
        x = (start[0] + np.cumsum(np.cos(angle), -1) * length / steps).reshape(num, -1)
        y = (start[1] + np.cumsum(np.sin(angle), -1) * length / steps).reshape(num, -1)
        ink = blur(np.minimum(splat(x, y, size), 2), sigma)
        fields += rng.choice([-1.0, 1.0]) * np.tanh(ink * (1 if steps == 1 else 0.6))
    return fields.astype(np.float32)


TEXTURES = (spectral, warped, waves, cells, tiling, reaction, strokes)
