# SPDX-License-Identifier: Apache-2.0
"""What each argument of the model may be, checked before anything is built from it."""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, get_args

from anomalib.metrics import Evaluator
from anomalib.visualization import Visualizer
from torch import nn

from .anomaly_map import ScoreMap
from .features import DetailPooling

LARGEST = 2**20
"""More than any number of codes, channels or layers; beyond it, torch fails with errors that name no argument."""

LARGEST_KERNEL = 31


class Rule(NamedTuple):
    """What an argument may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def check_arguments(arguments: Mapping[str, object]) -> None:
    """Check the arguments of :class:`.VQFlow`.

    Args:
        arguments: Values by name; those that have no rule here are passed over.

    Raises:
        ValueError: If one is not what it may be; the message names it.

    Example:
        >>> check_arguments({"num_concepts": 2.5})
        Traceback (most recent call last):
        ValueError: num_concepts must be a positive integer of at most 1048576, got 2.5.
    """
    for name, value in arguments.items():
        if name in RULES and not RULES[name].holds(value):
            msg = f"{name} must be {RULES[name].words}, got {value!r}."
            raise ValueError(msg)


def plain_list(values: Iterable[Any] | None) -> list[Any] | None:
    """Turn a list of any kind, such as OmegaConf's, into one that loads with ``weights_only=True``.

    Args:
        values: Values, or lists of them.

    Returns:
        Plain lists; None for None.
    """
    if values is None:
        return None
    nested = [isinstance(value, Iterable) and not isinstance(value, str) for value in values]
    return [plain_list(value) if inner else value for value, inner in zip(values, nested, strict=True)]


def _is_integer(value: object, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= LARGEST


def _is_number(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # type: ignore[operator]


def _is_list_of(value: object, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str) and all(map(holds, list(value)))


def _is_layer(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool))


def _one_of(values: Collection[str]) -> Rule:
    return Rule(f"one of {sorted(values)}", lambda value: isinstance(value, str) and value in values)


def _switch_or(kind: type, words: str) -> Rule:
    return Rule(f"True, False or {words}", lambda value: isinstance(value, bool | kind))


SWITCH = Rule("True or False", lambda value: isinstance(value, bool))
POSITIVE_INTEGER = Rule(f"a positive integer of at most {LARGEST}", _is_integer)
POSITIVE = Rule("a positive number", lambda value: _is_number(value) and value > 0)
SHARE = Rule("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
NOT_NEGATIVE = Rule("a number of at least 0", lambda value: _is_number(value) and value >= 0)
LEVELS = Rule(
    "None, or a list of integers of at least 0",
    lambda value: value is None or _is_list_of(value, lambda level: _is_integer(level, least=0)),
)

RULES = {
    "backbone": Rule("the name of a timm model", lambda value: isinstance(value, str)),
    "layers": Rule(
        "None, or a list of indices or names of layers, or of groups of them",
        lambda value: (
            value is None
            or _is_layer(value)
            or _is_list_of(value, lambda layer: _is_layer(layer) or _is_list_of(layer, _is_layer))
        ),
    ),
    "detail_pooling": _one_of(get_args(DetailPooling)),
    "semantic_level": SWITCH,
    "prefix_tokens": SWITCH,
    "pre_trained": Rule("True, False or the path of a file", lambda value: isinstance(value, bool | str | Path)),
    "concept_dim": POSITIVE_INTEGER,
    "num_concepts": POSITIVE_INTEGER,
    "concept_novelty": NOT_NEGATIVE,
    "position_dim": Rule(
        f"a multiple of 4 of at most {LARGEST}, or 0", lambda value: _is_integer(value, least=0) and value % 4 == 0
    ),
    "num_patterns": POSITIVE_INTEGER,
    "quantization": _one_of({"residual", "independent"}),
    "use_patterns": SWITCH,
    "flow_steps": Rule(
        f"a list of positive integers of at most {LARGEST}",
        lambda value: _is_list_of(value, _is_integer) and len(list(value)) > 0,
    ),
    "hidden_dim": Rule(
        f"None or a positive integer of at most {LARGEST}", lambda value: value is None or _is_integer(value)
    ),
    "second_kernel_size": Rule(
        f"an odd positive integer of at most {LARGEST_KERNEL}",
        lambda value: _is_integer(value) and int(value) % 2 == 1 and int(value) <= LARGEST_KERNEL,
    ),
    "affine_clamp": POSITIVE,
    "use_concept_gaussian": SWITCH,
    "use_fusion": SWITCH,
    "use_whitening": SWITCH,
    "whitening_noise": NOT_NEGATIVE,
    "commitment_weight": NOT_NEGATIVE,
    "tail_weight": SHARE,
    "lr": POSITIVE,
    "warmup_ratio": SHARE,
    "lr_schedule": _one_of({"constant", "cosine"}),
    "score_map": _one_of(get_args(ScoreMap)),
    "top_k_ratio": Rule("a number in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1),
    "map_levels": LEVELS,
    "score_levels": LEVELS,
    "map_log_det_weight": NOT_NEGATIVE,
    "pre_processor": _switch_or(nn.Module, "a pre-processor"),
    "post_processor": _switch_or(nn.Module, "a post-processor"),
    "evaluator": _switch_or(Evaluator, "an evaluator"),
    "visualizer": _switch_or(Visualizer, "a visualizer"),
}
"""Rules by the name of the argument; sizes, which also have a form to be brought into, have a function."""
