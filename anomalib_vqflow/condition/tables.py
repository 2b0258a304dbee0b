# SPDX-License-Identifier: Apache-2.0
"""The 3×3 convolution of a discrete condition as sums of table rows, with its gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .discrete import NUM_TAPS, DiscreteCondition


def build_table(weight: Tensor, condition: DiscreteCondition) -> Tensor:
    """Multiply the distinct vectors of a condition with a kernel.

    Args:
        weight: Kernel of shape ``(d, C, 3, 3)``, for the channels of the condition.
        condition: What to multiply.

    Returns:
        Table of shape ``(R, d)``; the rows are those of :class:`.DiscreteCondition`.
    """
    taps = weight.permute(1, 2, 3, 0).flatten(1)  # (C, 9 · d)
    dim, pattern_dim, position_dim = weight.shape[0], condition.pattern_dim, condition.position_dim
    parts = []
    if condition.patterns is not None:
        parts.append((_with_zero(condition.patterns.codebook) @ taps[:pattern_dim]).view(-1, dim))
    by_tap = condition.concept.prototypes @ _prototype_taps(taps, condition)
    parts.append(torch.matmul(_edge_pairs(condition, weight), by_tap.view(-1, NUM_TAPS, dim)).view(-1, dim))
    if position_dim:
        anchor = condition.anchor
        columns, rows = _position_taps(taps[:position_dim].view(position_dim, 3, 3, dim))
        edges = condition.edge_taps
        for encoding, kernel, inside in ((anchor.columns, columns, edges[0]), (anchor.rows, rows, edges[1])):
            size = encoding.shape[1]
            moved = (_windows(encoding) @ kernel).view(size, 3, dim).transpose(0, 1)
            parts.append((weight.new_tensor(inside) @ moved.reshape(3, -1)).view(-1, dim))
    return torch.cat(parts)


class ConditionConvolution(torch.autograd.Function):
    """Convolve a discrete condition by table, and hand the other channels' part of the kernel out.

    The gradients are those of the convolution of the map that the condition stands for.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weight: Tensor,
        prototypes: Tensor,
        pattern: Tensor,
        condition: DiscreteCondition,
    ) -> tuple[Tensor, Tensor]:
        """Add up table rows.

        Args:
            ctx: Context of autograd.
            weight: Kernel of shape ``(d, C_x + C, 3, 3)``; the last C channels belong to the condition.
            prototypes: Prototypes of the condition, named for the gradient of the joined part.
            pattern: Pattern of the condition, named for its gradient: that of code and prototype in it.
            condition: The condition.

        Returns:
            Convolution of the condition in cells, shape ``(B · h · w, d)``, and the kernel of the other channels, shape
            ``(d, C_x, 3, 3)``.
        """
        narrow = weight.shape[1] - condition.shape[1]
        table = build_table(weight[:, narrow:], condition).to(weight.dtype)
        ctx.save_for_backward(weight, prototypes)
        del pattern
        ctx.condition = condition
        ctx.autocast = torch.get_autocast_dtype(weight.device.type) if _autocasts(weight) else None
        return F.embedding_bag(condition.table_rows, table, mode="sum"), weight[:, :narrow].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_cells: Tensor, grad_narrow: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Hand the gradients back, in the order of the inputs."""
        weight, prototypes = ctx.saved_tensors
        condition: DiscreteCondition = ctx.condition
        device_type, dtype = weight.device.type, ctx.autocast
        with torch.autocast(device_type, dtype, enabled=dtype is not None):
            narrow = weight.shape[1] - condition.shape[1]
            grad_weight, grad_prototypes, grad_pattern = None, None, None
            grad_cells = grad_cells.contiguous()
            if ctx.needs_input_grad[2]:
                kernel = weight[:, narrow : narrow + condition.pattern_dim]
                kernel = kernel.contiguous(memory_format=torch.channels_last)
                grad_map = grad_cells.view(condition.shape[0], *condition.grid, -1).permute(0, 3, 1, 2)
                grad_pattern = F.conv_transpose2d(grad_map, kernel, padding=1)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                grad_taps, grad_prototypes = _table_gradients(grad_cells, weight[:, narrow:], prototypes, condition)
                grad_weight = torch.empty_like(weight)
                grad_weight[:, :narrow] = grad_narrow
                grad_weight[:, narrow:] = grad_taps.view(-1, 3, 3, weight.shape[0]).permute(3, 0, 1, 2)
            return grad_weight, grad_prototypes, grad_pattern, None


def _table_gradients(
    grad_cells: Tensor, weight: Tensor, prototypes: Tensor, condition: DiscreteCondition
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the kernel, shape ``(C, 9 · d)``, and of the prototypes, ``(N, D)``."""
    dim, pattern_dim, position_dim = weight.shape[0], condition.pattern_dim, condition.position_dim
    # A sum over the cells of each row: many times faster than the backward of embedding_bag, and deterministic.
    cells, starts = condition.row_cells
    grad_table = F.embedding_bag(cells, grad_cells, starts, mode="sum")
    for_codes, for_prototypes, *for_position = grad_table.split(condition.table_sizes)

    # Written in place part by part: at the published widths, every copy of these would take as long as a product.
    grad_taps = grad_cells.new_empty(weight.shape[1], NUM_TAPS * dim)
    pattern_taps, joined_taps = grad_taps[:pattern_dim], grad_taps[pattern_dim:]
    if condition.patterns is None:
        pattern_taps.zero_()
    else:
        pattern_taps.copy_(torch.mm(condition.patterns.codebook.T, for_codes.view(-1, NUM_TAPS * dim)[:-1]))
    by_tap = _edge_pairs(condition, weight).T @ for_prototypes.view(len(prototypes), -1, dim)
    by_tap = by_tap.view(len(prototypes), -1)  # (N, 9 · d)
    product = prototypes.T @ by_tap
    if condition.anchored:
        pattern_taps[pattern_dim - prototypes.shape[1] :] += product
    if condition.joined:
        joined_taps.copy_(product)
    if position_dim:
        kernels = []
        encodings = (condition.anchor.columns, condition.anchor.rows)
        for encoding, grad, inside in zip(encodings, for_position, condition.edge_taps, strict=True):
            size = encoding.shape[1]
            moved = (weight.new_tensor(inside).T @ grad.view(len(inside), -1)).view(3, size, dim).transpose(0, 1)
            kernels.append((_windows(encoding).T @ moved.reshape(size, -1)).view(-1, 3, 3, dim))
        columns, rows = kernels
        grad_taps[:position_dim] += torch.cat((columns.transpose(1, 2), rows)).reshape(position_dim, -1)

    if not condition.joined:  # then the prototype acts through the pattern alone
        return grad_taps, torch.zeros_like(prototypes)
    return grad_taps, by_tap @ weight[:, pattern_dim:].permute(1, 2, 3, 0).flatten(1).T


def _prototype_taps(taps: Tensor, condition: DiscreteCondition) -> Tensor:
    """Add up the rows of the kernel, ``(C, 9 · d)``, that the prototype meets; shape ``(D, 9 · d)``."""
    end, dim = condition.pattern_dim, condition.concept_dim
    if condition.anchored and condition.joined:
        return taps[end - dim : end] + taps[end:]
    return taps[end - dim : end] if condition.anchored else taps[end:]


def _position_taps(taps: Tensor) -> tuple[Tensor, Tensor]:
    """Sort a kernel ``(P, 3, 3, d)`` to ``(3 · P / 2, 3 · d)`` for columns and for rows, the summed axis first."""
    columns, rows = taps.chunk(2)
    return columns.transpose(1, 2).flatten(2).flatten(0, 1), rows.flatten(2).flatten(0, 1)


def _windows(encoding: Tensor) -> Tensor:
    """Gather the neighbors along an axis; ``(P / 2, n)`` to ``(n, 3 · P / 2)``."""
    size, padded = encoding.shape[1], F.pad(encoding, (1, 1))
    return torch.stack([padded[:, tap : tap + size] for tap in range(3)], dim=1).flatten(0, 1).T


def _with_zero(codes: Tensor) -> Tensor:
    """Append the code of the outside."""
    return F.pad(codes, (0, 0, 0, 1))


def _edge_pairs(condition: DiscreteCondition, like: Tensor) -> Tensor:
    """Tell which taps stay inside, for each kind of row and kind of column; shape ``(9, 9)`` where there are three."""
    rows, columns = (like.new_tensor(inside) for inside in condition.edge_taps)
    return (rows[:, None, :, None] * columns[None, :, None, :]).view(-1, NUM_TAPS)


def _autocasts(weight: Tensor) -> bool:
    return torch.is_autocast_enabled(weight.device.type)
