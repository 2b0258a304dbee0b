# SPDX-License-Identifier: Apache-2.0
"""What processes that train together share: sums, rows, decisions, and batch statistics.

Lightning starts the processes and averages their gradients. In a single process all of this is the identity. The calls
that communicate must be made by all processes, in the same order.
"""

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torchmetrics.utilities.distributed import gather_all_tensors


def num_processes() -> int:
    """Count the processes that train or evaluate together; 1 without distribution."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this is the process that decides for all."""
    return num_processes() == 1 or distributed.get_rank() == 0


class _Sum(torch.autograd.Function):
    """The sum of all processes; torch's own function for this, ``distributed.nn.all_reduce``, is deprecated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        return sum_over_processes(gradient)


def sum_over_processes(x: Tensor) -> Tensor:
    """Add up a tensor over all processes.

    Args:
        x: Tensor of the same shape and type in all processes, on the device that they communicate by.

    Returns:
        The sum, equal in all processes to the last bit. Its gradient is that of the sum of all processes' losses.
    """
    return x if num_processes() == 1 else cast("Tensor", _Sum.apply(x))


def rows_of_all_processes(rows: Tensor) -> Tensor:
    """Gather rows in the order in which ``DistributedSampler`` dealt them out: the first of each process first.

    Args:
        rows: Rows of shape ``(n, ...)``; n may differ between processes.

    Returns:
        All rows, shape ``(N, ...)``, without gradient.
    """
    if num_processes() == 1:
        return rows
    parts = gather_all_tensors(rows.detach())
    turns = torch.cat([torch.arange(len(part), device=rows.device) for part in parts])
    return torch.cat(parts)[turns.argsort(stable=True)]


def follow_first_(*tensors: Tensor) -> None:
    """Overwrite tensors by those of the first process.

    Args:
        tensors: Contiguous tensors of any shapes.
    """
    if num_processes() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def pooled(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Put mean and variance of the values of each process together to those of all values.

    Args:
        mean: Mean of each channel's values, shape ``(C,)``.
        variance: Their variance, not corrected for bias, shape ``(C,)``.
        count: How many values each channel has in this process, or a number that is proportional to it.

    Returns:
        The same of all processes.
    """
    if num_processes() == 1:
        return mean, variance
    weight = count / sum_over_processes(mean.new_tensor(count))
    of_all = sum_over_processes(weight * mean)
    return of_all, sum_over_processes(weight * (variance + (mean - of_all).square()))


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` whose batch, in training, is that of all processes.

    torch's ``SyncBatchNorm`` does the same on GPUs, and refuses to run on CPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize vectors of shape ``(B, C)``."""
        return _normalized(self, x) if self.training and num_processes() > 1 else super().forward(x)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` whose batch, in training, is that of all processes.

    Example:
        >>> import torch
        >>> SyncedBatchNorm2d(3)(torch.rand(2, 3, 4, 4)).mean().abs() < 1e-6
        tensor(True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps of shape ``(B, C, h, w)``."""
        return _normalized(self, x) if self.training and num_processes() > 1 else super().forward(x)


def _normalized(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalize ``x``, ``(B, C, ...)``, by the statistics of all processes, and follow these."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).flatten(1)  # (C, N)
    mean, variance = pooled(wide.mean(dim=1), wide.var(dim=1, correction=0), count=wide.shape[1])
    with torch.no_grad():
        count = sum_over_processes(wide.new_tensor(wide.shape[1]))
        momentum = cast("float", norm.momentum)
        cast("Tensor", norm.running_mean).lerp_(mean, momentum)
        cast("Tensor", norm.running_var).lerp_(variance * count / (count - 1), momentum)
        cast("Tensor", norm.num_batches_tracked).add_(1)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    normal = (wide - mean[:, None]) * scale[:, None] + norm.bias[:, None]
    return normal.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1).to(x.dtype)
