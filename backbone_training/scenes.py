# SPDX-License-Identifier: Apache-2.0

"""Scenes: pictures of the bank placed, mixed, colored, lit and blurred anew in every batch."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

LEAST_CONTRAST = 0.08  # between the darkest and the brightest color of a picture
RELIEF = 0.6  # how strongly pictures may be lit as heights


def uniform(low: float, high: float, num: int, rng: Generator) -> Tensor:
    """Return random numbers of shape ``(num, 1, 1, 1)``."""
    return low + (high - low) * torch.rand(num, 1, 1, 1, generator=rng)


def smooth_noise(num: int, knots: int, size: int, rng: Generator) -> Tensor:
    """Return noise of about ``knots`` random values across, smoothly enlarged to shape ``(num, 1, size, size)``."""
    lattice = torch.randn(num, 1, knots + 1, knots + 1, generator=rng)
    quarter = F.interpolate(lattice, size=size // 4, mode="bicubic", align_corners=True)
    return F.interpolate(quarter, size=size, mode="bilinear", align_corners=False)


def place(pictures: Tensor, is_figure: Tensor, size: int, rng: Generator) -> Tensor:
    """Cut a turned, scaled and shifted window out of each picture.

    Textures keep their scale in pixels, whatever the window's size; figures fill the window. Both vary by a factor of
    about 1.3, because scale and direction are part of what makes a texture.

    Args:
        pictures: Gray pictures, shape ``(B, P, P)``, values 0 to 255.
        is_figure: Which of them are figures, shape ``(B,)``.
        size: Side S of the window in pixels.
        rng: Source of randomness.

    Returns:
        Windows of shape ``(B, 1, S, S)``, values 0 to 1.
    """
    num, side = pictures.shape[0], pictures.shape[-1]
    turn = 0.15 * torch.randn(num, generator=rng)
    zoom = torch.exp(uniform(-0.28, 0.28, num, rng).flatten())
    window = zoom * torch.where(is_figure, torch.tensor(1.0), torch.tensor(size / side))
    slack = torch.where(is_figure, torch.tensor(0.15), (1 - window).clamp(min=0.0))
    shift = slack[:, None] * (2 * torch.rand(num, 2, generator=rng) - 1)
    cos, sin = turn.cos() * window, turn.sin() * window
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(num, 2, 3)
    grid = F.affine_grid(theta, [num, 1, size, size], align_corners=False)
    fields = pictures[:, None].float() / 255
    return F.grid_sample(fields, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def palette(num: int, rng: Generator) -> Tensor:
    """Draw three colors per scene, the darkest first; shape ``(3, num, 3, 1, 1)``."""
    contrast = uniform(LEAST_CONTRAST, 0.9, num, rng)
    dark = uniform(0, 1, num, rng) * (1 - contrast)
    vivid = uniform(0, 1, num, rng) ** 3 * 0.3
    base = dark + vivid * torch.randn(num, 3, 1, 1, generator=rng)
    end = dark + contrast + vivid * torch.randn(num, 3, 1, 1, generator=rng)
    middle = (base + end) / 2 + contrast * vivid * torch.randn(num, 3, 1, 1, generator=rng)
    return torch.stack([base, middle, end])


def paint(fields: Tensor, colors: Tensor) -> Tensor:
    """Color gray fields ``(B, 1, S, S)`` along the quadratic curve through a palette; shape ``(B, 3, S, S)``."""
    base, middle, end = colors
    return base + fields * (2 * (middle - base) + fields * (base - 2 * middle + end))


def emboss(fields: Tensor, rng: Generator) -> Tensor:
    """Return the light and shade of fields seen as heights and lit from a random side; same shape."""
    turn, depth = uniform(0, 2 * torch.pi, len(fields), rng), uniform(-1, 1, len(fields), rng).clamp(min=0) * RELIEF
    x, y = (F.pad(fields.diff(dim=axis), pad) for axis, pad in ((3, (0, 1, 0, 0)), (2, (0, 0, 0, 1))))
    return depth * (turn.cos() * x + turn.sin() * y)


def regions(num: int, size: int, rng: Generator) -> Tensor:
    """Draw where the second picture shows: nowhere, in blobs or along lines; shape ``(num, 1, size, size)``."""
    knots = int(torch.tensor([2, 3, 5, 8, 12])[torch.randint(5, (1,), generator=rng)])
    noise = smooth_noise(num, knots, size, rng)
    blobs, lines = noise - uniform(0.1, 1.5, num, rng), uniform(0.02, 0.25, num, rng) - noise.abs()
    shown = torch.where(uniform(0, 1, num, rng) < 0.75, blobs, lines)
    soft = torch.sigmoid(shown * (2 * size / knots))
    return soft * (uniform(0, 1, num, rng) < 0.5)


def compose(first: Tensor, second: Tensor, is_figure: tuple[Tensor, Tensor], size: int, rng: Generator) -> Tensor:
    """Compose one batch of scenes from two batches of pictures.

    Args:
        first: Gray pictures, shape ``(B, P, P)``, values 0 to 255.
        second: Gray pictures that show in some regions, same shape.
        is_figure: Which pictures are figures, two tensors of shape ``(B,)``.
        size: Side S of the scenes in pixels.
        rng: Source of randomness.

    Returns:
        Images of shape ``(B, 3, S, S)``, values 0 to 1.
    """
    num = len(first)
    colors, others = palette(num, rng), palette(num, rng)
    same = uniform(0, 1, num, rng) < 0.4  # same colors: only the texture tells the regions apart
    others = torch.where(same, colors, others)
    cover = regions(num, size, rng)
    painted = []
    for pictures, figures, tones in ((first, is_figure[0], colors), (second, is_figure[1], others)):
        fields = place(pictures, figures, size, rng)
        painted.append(paint(fields, tones) + emboss(fields, rng))
    below, above = painted
    images = below + cover * (above - below)
    images = images * (1 + 0.15 * uniform(0, 1, num, rng) * smooth_noise(num, 2, size, rng))
    images = images + uniform(-0.4, 1, num, rng) * (F.avg_pool2d(images, 3, 1, 1, count_include_pad=False) - images)
    images = images + 0.05 * uniform(0, 1, num, rng) ** 2 * torch.randn(images.shape, generator=rng)
    return images.clamp(0, 1)
