# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint needs beyond Lightning's: random states, and words for one that does not fit."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

MEANING = frozenset({"backbone", "layers", "input_size", "concept_dim", "position_dim", "quantization", "affine_clamp"})
"""Arguments that change what the weights mean, perhaps without changing their shapes."""


def random_states() -> dict[str, Any]:
    """Collect the states of all global random generators, in types that ``torch.load(weights_only=True)`` takes.

    Returns:
        States of Python, NumPy, torch and, where there are any, the CUDA devices.
    """
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put all global random generators into the states of :func:`random_states`.

    Args:
        states: The states; those of CUDA devices are left out where the number of devices differs.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def differing_arguments(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare the constructor arguments that a checkpoint was made with to those of the model that loads it.

    Args:
        found: Arguments in the checkpoint.
        wanted: Arguments of the model.

    Returns:
        The value in the checkpoint and the value in the model, by the name of each argument that differs.
        ``pre_trained`` is left out, because the weights come from the checkpoint.
    """
    pairs = {name: (_plain(found[name]), _plain(wanted[name])) for name in found if name in wanted}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name != "pre_trained"}


def explain_misfit(found: Mapping[str, Any], wanted: Mapping[str, Any], reason: str = "") -> str:
    """Tell why a checkpoint does not fit a model, and what to do.

    Args:
        found: Constructor arguments in the checkpoint.
        wanted: Constructor arguments of the model.
        reason: What torch said about it, if anything.

    Returns:
        Text of an error.
    """
    differing = differing_arguments(found, wanted)
    words = [f"{name}={old!r} in the checkpoint, {new!r} in this model" for name, (old, new) in differing.items()]
    if words:
        cause = f"The checkpoint was made with other arguments: {'; '.join(words)}."
        cure = "Build the model with the checkpoint's arguments, or let VQFlow.load_from_checkpoint(path) do it."
    elif any(name in wanted for name in found):
        cause = "The checkpoint was made with the same arguments, but does not hold the same weights."
        cure = "It may come from another version of this package: train again, or install that version."
    else:
        cause = "The checkpoint was not made by VQFlow, whose arguments it lacks."
        cure = "Give the checkpoint of a VQFlow."
    return " ".join(part for part in (cause, cure, reason) if part)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
