# SPDX-License-Identifier: Apache-2.0
"""What a product is made of before light and camera see it, and the fault that a drawing function may be asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from .primitives import Array, mix


@dataclass
class Scene:
    """Material of every pixel.

    Args:
        albedo: Colors of shape ``(S, S, 3)`` in 0 to 1.
        height: Relief of shape ``(S, S)`` in units of the image side.
        gloss: Strength of highlights of shape ``(S, S)``.
        region: Where the product is, of shape ``(S, S)`` in 0 to 1; surface faults stay inside.
        size: Side of the whole image in pixels; S for a whole scene, more than S for a cut-out.
    """

    albedo: Array
    height: Array
    gloss: Array
    region: Array
    size: int

    def paint(self, color: ArrayLike, alpha: Array) -> None:
        """Lay a color, or a colored image, over the surface.

        Args:
            color: Color of 3 values or image of shape ``(S, S, 3)``.
            alpha: Opacity of shape ``(S, S)``.
        """
        self.albedo[:] = mix(self.albedo, color, alpha[..., None])

    def window(self, x: Array, y: Array, center: tuple[float, float], reach: float) -> tuple["Scene", Array, Array]:
        """Return the smallest cut-out that holds a disc, so that a small part isn't drawn on the whole image.

        Args:
            x: Horizontal coordinates of the whole scene, of shape ``(S, S)``.
            y: Vertical coordinates, same shape.
            center: Center of the disc in these coordinates.
            reach: Radius of the disc.

        Returns:
            A scene that shares memory with this one, and the cut-outs of both coordinates.
        """
        near = (x - np.float32(center[0])) ** 2 + (y - np.float32(center[1])) ** 2 < np.float32(reach**2)
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if not len(rows):
            rows = columns = np.zeros(1, dtype=np.intp)
        cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        part = Scene(self.albedo[cut], self.height[cut], self.gloss[cut], self.region[cut], self.size)
        return part, x[cut], y[cut]


def flat_scene(size: int, color: ArrayLike) -> Scene:
    """Return a flat, dull surface of one color that fills the image."""
    empty = np.zeros((size, size), dtype=np.float32)
    albedo = np.empty((size, size, 3), dtype=np.float32)
    albedo[:] = np.asarray(color, dtype=np.float32)
    return Scene(albedo, empty, empty.copy(), np.ones_like(empty), size)


@dataclass(frozen=True)
class Fault:
    """A structural fault that a product is drawn with.

    Args:
        kind: Name of the fault; ``"good"`` for none. Kinds that a drawing function doesn't know leave it unchanged.
        rng: Randomness of the fault alone, so that everything else is drawn as on the faultless twin.
    """

    kind: str
    rng: Generator

    def pick(self, kind: str, count: int) -> int:
        """Return which of ``count`` like parts the fault ``kind`` hits, or -1 where the fault is another one."""
        return int(self.rng.integers(count)) if self.kind == kind else -1

    def amount(self, kind: str, low: float, high: float) -> float:
        """Return a random size between ``low`` and ``high`` for the fault ``kind``, or 0 where it is another one."""
        return float(self.rng.uniform(low, high)) if self.kind == kind else 0.0
