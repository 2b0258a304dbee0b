# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing in operators that every runtime computes alike: gathers and matrix products."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from anomalib.data.transforms import ExportableCenterCrop
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import Resize

BLOCK = 8
"""Rows that one matrix product makes. More read wider windows, of which each row needs less; fewer overlap more."""

WINDOW_STEP, WIDTH_STEP = 16, 128
"""Windows and widths are filled up to multiples: OpenVINO keeps 0.8 MB for each shape of a matrix product."""


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


class Kernel(NamedTuple):
    """Weights of pixels."""

    weight: Callable[[Tensor], Tensor]  # by distance, in pixels of the smaller image
    support: int  # distance from which they are zero


KERNELS = {"bilinear": Kernel(_triangle, 1), "bicubic": Kernel(_cubic, 2)}
PILLOW_MODES = {2: "bilinear", 3: "bicubic"}  # torchvision takes these numbers, too


class SizeError(ValueError):
    """A transform cannot be exported for images of any size."""


class ExportableResize(Resize):
    """Resize that is exported without ONNX's antialiasing.

    OpenVINO (2026.4) ignores the flag for it, and its own antialiasing keeps memory for every size of images that it
    meets. An export with this transform builds the weights of the interpolation from the size of the images, and
    multiplies. Everywhere else, it is a ``Resize``.

    Args:
        resize: What to compute.

    Example:
        >>> ExportableResize(Resize((4, 6), antialias=True))(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 3, 4, 6])
    """

    def __init__(self, resize: Resize) -> None:
        super().__init__(resize.size, resize.interpolation, resize.max_size, resize.antialias)

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Resize images.

        Args:
            inpt: Images of shape ``(B, C, H, W)``.
            params: Unused.

        Returns:
            Images of the new size.

        Raises:
            SizeError: In an export for images of any size, if these would not all become images of one size.
        """
        if torch.compiler.is_exporting():
            size = self._new_size(inpt.shape)
            mode: Any = getattr(self.interpolation, "value", self.interpolation)
            kernel = KERNELS.get(PILLOW_MODES.get(mode, mode))
            if self.antialias and kernel is not None:
                return resample(inpt, size, kernel)
        return cast("Tensor", super().transform(inpt, params))

    def _new_size(self, shape: torch.Size) -> tuple[int, int]:
        """Find out the height and width of the resized images."""
        if self.size is not None and len(self.size) == 2:
            return self.size[0], self.size[1]
        _check_known(shape, f"Resize(size={self.size}, max_size={self.max_size})")
        height, width = super().transform(torch.empty(shape[-3:], device="meta"), {}).shape[-2:]
        return height, width


class ExportableCrop(ExportableCenterCrop):
    """Crop that is not exported for images of any size: its trace would hold what the example needed.

    Args:
        size: Height and width, in pixels.
    """

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Crop images.

        Args:
            inpt: Images of shape ``(B, C, H, W)``.
            params: Unused.

        Returns:
            Their middle.

        Raises:
            SizeError: In an export for images of any size, if these do not have one size by now.
        """
        if torch.compiler.is_exporting():
            _check_known(inpt.shape, f"CenterCrop(size={self.size})")
        return super().transform(inpt, params)


def _check_known(shape: torch.Size, transform: str) -> None:
    if not all(isinstance(length, int) for length in shape[-2:]):
        msg = (
            f"{transform} cannot be exported for images of any size. Export with an input_size, or put a Resize to "
            "height and width before it, or in its place."
        )
        raise SizeError(msg)


def resample(images: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """Resize images as torch does with antialiasing.

    Args:
        images: Images of shape ``(B, C, H, W)``; in an export, their size may be symbolic.
        size: New height and width.
        kernel: Weights of the old pixels.

    Returns:
        Images of shape ``(B, C, *size)``.

    Example:
        >>> resample(torch.rand(1, 3, 9, 9), (4, 6), KERNELS["bilinear"]).shape
        torch.Size([1, 3, 4, 6])
    """
    height, width = images.shape[-2:]
    if isinstance(height, int) and isinstance(width, int):
        if (height, width) == size:
            return images
    else:
        images = F.pad(images, (0, _filled_up(width, WIDTH_STEP) - width))
    images = _resample_rows(images, height, size[0], kernel)  # (B, C, h, W)
    columns = images.permute(0, 3, 1, 2)  # (B, W, C, h), which OpenVINO does faster than a swap of the last two
    columns = _resample_rows(columns.flatten(2), width, size[1], kernel)  # (B, w, C * h)
    return columns.unflatten(2, images.shape[1:3]).permute(0, 2, 3, 1)


def _resample_rows(rows: Tensor, length: int, target: int, kernel: Kernel) -> Tensor:
    """Make ``(..., target, N)`` of the first rows of ``(..., length or more, N)``.

    Row i of the new image lies at ``(i + 1/2) * length / target``, row j of the old one at ``j + 1/2``. Distances are
    computed in integers, hence exactly.
    """
    unit = cast("int", 2 * torch.sym_max(length, target))  # a pixel of the smaller image
    num_blocks = (target + BLOCK - 1) // BLOCK
    window = _filled_up(((BLOCK - 1) * length + kernel.support * unit) // target + 2, WINDOW_STEP)

    new = torch.arange(num_blocks * BLOCK, device=rows.device).unflatten(0, (num_blocks, BLOCK))
    new = (2 * new + 1) * length
    first = ((new[:, :1] - kernel.support * unit) // (2 * target)).clamp(min=0)
    old = first + torch.arange(window, device=rows.device)  # (blocks, window)
    distance = (((2 * old + 1) * target)[:, None] - new[..., None]).abs()  # (blocks, BLOCK, window)
    weights = torch.where((old < length)[:, None], kernel.weight(distance.to(rows.dtype) / unit), 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True)

    windows = rows.index_select(-2, old.clamp(max=length - 1).flatten()).unflatten(-2, (num_blocks, window))
    return (weights @ windows).flatten(-3, -2)[..., :target, :]


def _filled_up(length: int, step: int) -> int:
    return (length + step - 1) // step * step  # not -(-length // step), which ONNX rounds towards zero
