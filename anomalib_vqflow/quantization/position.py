# SPDX-License-Identifier: Apache-2.0
"""Fixed two-dimensional position encoding (PE in the framework figure)."""

import math

import torch
from torch import Tensor


def sinusoidal_encoding(
    dim: int, height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    r"""Encode the cells of a grid with sines and cosines of their column and row.

    The first half of the channels encodes the column :math:`x`, the second half the row :math:`y`. Within a half,
    channels :math:`2j` and :math:`2j + 1` hold the sine and the cosine at the wavelength
    :math:`2 \pi \cdot 10^{4 \cdot 4j / P}`.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "PE", https://arxiv.org/abs/2409.00942

    Args:
        dim: Number of channels P, a multiple of 4; 0 gives an empty encoding.
        height: Rows of the grid.
        width: Columns of the grid.
        dtype: Type of the result; computed in float32, as in the paper's release, then cast.
        device: Device of the result.

    Returns:
        Tensor of shape ``(dim, height, width)`` with values in [-1, 1].

    Raises:
        ValueError: If ``dim`` is negative or not a multiple of 4.

    Example:
        >>> sinusoidal_encoding(8, 2, 3).shape
        torch.Size([8, 2, 3])
    """
    half = dim // 2
    columns = axis_encoding(dim, width, dtype, device)[:, None, :].expand(half, height, width)
    rows = axis_encoding(dim, height, dtype, device)[:, :, None].expand(half, height, width)
    return torch.cat((columns, rows))


def axis_encoding(
    dim: int, size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Encode the columns of a grid, or likewise its rows; see :func:`sinusoidal_encoding`.

    Args:
        dim: Channels P of the encoding of both axes.
        size: Number of columns or rows n.
        dtype: See :func:`sinusoidal_encoding`, like the next one.
        device: Device of the result.

    Returns:
        Tensor of shape ``(P / 2, n)``.

    Raises:
        ValueError: If ``dim`` is negative or not a multiple of 4.

    Example:
        >>> axis_encoding(8, 3).shape
        torch.Size([4, 3])
    """
    if dim < 0 or dim % 4:
        msg = f"position_dim must be a non-negative multiple of 4 (sine and cosine of x and y), got {dim}."
        raise ValueError(msg)
    steps = torch.arange(0, dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = torch.exp(steps * (-math.log(10_000.0) / max(dim // 2, 1)))  # (P / 4,)
    angles = torch.arange(size, dtype=torch.float32, device=device)[:, None] * frequencies  # (n, P / 4)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).T.to(dtype)  # (P / 2, n)
