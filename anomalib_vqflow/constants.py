# SPDX-License-Identifier: Apache-2.0
"""Tensors that depend on sizes alone, made once."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

P = ParamSpec("P")

MOST_KEPT = 64
"""Tensors that are kept for each function; models of one size need fewer, and those of any size make them anew."""


def constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Keep what a function returns, so that the next call, and the graph of an export, need no operations for it.

    An export holds as a constant what was kept before, and the operations of what was not. What ``torch.compile``
    traces are the operations, too.

    Args:
        make: Function of hashable positional arguments, one of them the device of the tensor that it makes.

    Returns:
        The same function, of positional arguments only. Nobody may write into what it returns.

    Example:
        >>> import torch
        >>> @constant
        ... def ramp(size, device):
        ...     return torch.arange(size, device=device)
        >>> ramp(3, torch.device("cpu")) is ramp(3, torch.device("cpu"))
        True
    """
    make = cast("Callable[..., Tensor]", make)
    kept: dict[tuple[object, ...], Tensor] = {}

    @wraps(make)
    def get(*args: Any) -> Tensor:  # noqa: ANN401
        if torch.compiler.is_dynamo_compiling():
            return make(*args)
        if torch.compiler.is_exporting():
            is_known = not any(isinstance(size, torch.SymInt) for size in args) and args in kept
            return kept[args] if is_known else make(*args)
        if args not in kept:
            with torch.inference_mode(mode=False):  # what is kept has to serve in training, too
                made = make(*args)
            if type(made) is not Tensor:  # a stand-in, such as that of a FakeTensorMode
                return made
            if len(kept) == MOST_KEPT:
                kept.pop(next(iter(kept)), None)
            kept[args] = made
        return kept[args]

    return cast("Callable[P, Tensor]", get)
