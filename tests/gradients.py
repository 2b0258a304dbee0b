# SPDX-License-Identifier: Apache-2.0
"""Checks on gradients, shared by the tests of the modules."""

from torch import nn


def parameters_without_gradient(module: nn.Module) -> list[str]:
    """Name the parameters that got no gradient, or a zero or broken one."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
