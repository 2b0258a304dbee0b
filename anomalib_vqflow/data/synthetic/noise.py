# SPDX-License-Identifier: Apache-2.0
"""Smooth and white noise."""

import cv2
import numpy as np
from numpy.random import Generator

from .primitives import Array


def value_noise(rng: Generator, size: int, cells: int | tuple[int, int]) -> Array:
    """Return smooth noise: normal random numbers on a lattice, interpolated by cubics.

    Args:
        rng: Source of randomness.
        size: Side of the image in pixels.
        cells: Lattice cells across the image, one number or (vertical, horizontal) for stretched noise.

    Returns:
        Noise of shape ``(size, size)``, zero mean and about unit spread over many draws.
    """
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    lattice = rng.standard_normal((rows + 3, columns + 3), dtype=np.float32)
    # Pixel i reads lattice position 1 + (i + 0.5) * cells / size, away from the border of the lattice.
    step_x, step_y = columns / size, rows / size
    matrix = np.array([[step_x, 0, 1 + 0.5 * step_x], [0, step_y, 1 + 0.5 * step_y]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(lattice, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(noise, dtype=np.float32)


def fbm(rng: Generator, size: int, cells: int | tuple[int, int], octaves: int = 4, gain: float = 0.5) -> Array:
    """Return fractional Brownian motion: octaves of :func:`value_noise`, each twice as fine and ``gain`` as strong.

    Args:
        rng: Source of randomness.
        size: Side of the image in pixels.
        cells: Lattice cells of the coarsest octave, one number or (vertical, horizontal).
        octaves: Number of octaves; those finer than a pixel are left out.
        gain: Amplitude of an octave relative to the one before.

    Returns:
        Noise of shape ``(size, size)``, zero mean and about unit spread over many draws.
    """
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    total = np.zeros((size, size), dtype=np.float32)
    power = 0.0
    for octave in range(octaves):
        scale, amplitude = 2**octave, gain**octave
        noise = value_noise(rng, size, (rows * scale, columns * scale))
        if octave and min(rows, columns) * scale > size:
            continue  # too fine, but drawn, so that what is drawn next doesn't depend on the size
        total += np.float32(amplitude) * noise
        power += amplitude**2
    return total / np.float32(np.sqrt(power))


def grain(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Return white noise of zero mean and unit spread, nearly normal: sums of four random bytes.

    Args:
        rng: Source of randomness.
        shape: Shape of the noise.

    Returns:
        Noise, three times as fast as normal random numbers.
    """
    count = int(np.prod(shape))
    values = np.frombuffer(rng.bytes(4 * count), dtype=np.uint8).reshape(4, *shape).sum(axis=0, dtype=np.uint16)
    return (values.astype(np.float32) - np.float32(510)) * np.float32(1 / 147.8)
