# SPDX-License-Identifier: Apache-2.0
"""Fixed position encoding of the axes of a grid (PE in the framework figure)."""

import math

import torch
from torch import Tensor

from anomalib_vqflow.constants import constant


@constant
def axis_encoding(dim: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""Encode the columns of a grid, or likewise its rows, with sines and cosines.

    Channels :math:`2j` and :math:`2j + 1` hold the sine and the cosine at the wavelength
    :math:`2 \pi \cdot 10^{4 \cdot 4j / P}`.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "PE", https://arxiv.org/abs/2409.00942

    Args:
        dim: Channels P of the encoding of both axes together, a multiple of 4.
        size: Number of columns or rows n.
        dtype: Type of the result; computed in float32, as in the paper's release, then cast.
        device: Device of the result.

    Returns:
        Tensor of shape ``(P / 2, n)`` with values in [-1, 1].

    Raises:
        ValueError: If ``dim`` is negative or not a multiple of 4.

    Example:
        >>> axis_encoding(8, 3, torch.float32, torch.device("cpu")).shape
        torch.Size([4, 3])
    """
    if dim < 0 or dim % 4:
        msg = f"position_dim must be a non-negative multiple of 4 (sine and cosine of x and y), got {dim}."
        raise ValueError(msg)
    steps = torch.arange(0, dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = torch.exp(steps * (-math.log(10_000.0) / max(dim // 2, 1)))  # (P / 4,)
    angles = torch.arange(size, dtype=torch.float32, device=device)[:, None] * frequencies  # (n, P / 4)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).T.to(dtype)  # (P / 2, n)
