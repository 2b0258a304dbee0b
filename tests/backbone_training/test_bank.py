# SPDX-License-Identifier: Apache-2.0

"""Tests of the procedural images, class by class."""

import numpy as np
import pytest

from backbone_training.bank import FORMULAS, bank, pictures


@pytest.mark.parametrize("index", range(len(FORMULAS)))
def test_a_class_is_repeatable_and_its_pictures_differ(index: int) -> None:
    """Same class and seed: same pictures; another class of the same formula or another seed: others."""
    first = pictures(index, 3, size=32)
    assert first.shape == (3, 32, 32)
    assert first.dtype == np.uint8
    assert np.array_equal(first, pictures(index, 3, size=32))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, pictures(index + len(FORMULAS), 3, size=32))
    assert not np.array_equal(first, pictures(index, 3, size=32, seed=1))
    assert first.std() > 5


def test_the_bank_holds_every_class() -> None:
    """Class by class, the images are those of :func:`pictures`."""
    images = bank(3, 2, size=32, seed=5)
    assert images.shape == (3, 2, 32, 32)
    assert all(np.array_equal(images[index], pictures(index, 2, size=32, seed=5)) for index in range(3))
