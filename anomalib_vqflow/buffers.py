# SPDX-License-Identifier: Apache-2.0
"""Buffers whose length depends on what a model was fitted to."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def resize_buffers_(module: nn.Module, names: Iterable[str], state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give buffers the shapes that they have in a state dict, which torch then loads into any module.

    Args:
        module: The module whose ``_load_from_state_dict`` calls this.
        names: Names of the buffers.
        state_dict: State of all modules.
        prefix: What stands before this module's names in it.
    """
    for name in names:
        if (saved := state_dict.get(prefix + name)) is not None:
            setattr(module, name, torch.zeros_like(saved, device=getattr(module, name).device))
