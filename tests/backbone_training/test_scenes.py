# SPDX-License-Identifier: Apache-2.0

"""Tests of the scenes that the backbone sees in its training."""

import torch
from torch import Generator, Tensor

from backbone_training.bank import FORMULAS, pictures
from backbone_training.scenes import compose


def scenes(num: int, size: int, seed: int = 0) -> Tensor:
    """Compose scenes of a texture and a figure each."""
    first, second = (torch.from_numpy(pictures(index, num, size=64)) for index in (0, len(FORMULAS) - 1))
    no = torch.zeros(num, dtype=torch.bool)
    return compose(first, second, (no, ~no), size, Generator().manual_seed(seed))


def test_scenes_are_repeatable_finite_and_all_different() -> None:
    """The same seed draws the same scenes, another seed others, and no two scenes of a batch are alike."""
    images = scenes(16, 96)
    assert images.shape == (16, 3, 96, 96)
    assert images.isfinite().all()
    assert torch.equal(images, scenes(16, 96))
    assert not torch.equal(images, scenes(16, 96, seed=1))
    distances = torch.cdist(images.flatten(1), images.flatten(1)) + torch.eye(16) * 1e9
    assert distances.min() > 1
