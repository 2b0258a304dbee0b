# SPDX-License-Identifier: Apache-2.0
"""The states of all global random generators."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


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


@contextmanager
def own_random_states(seed: int) -> Iterator[None]:
    """Seed all global random generators, and put them back at the end, also if that is an error.

    Args:
        seed: The seed, at least 0.
    """
    states = random_states()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_random_states(states)
