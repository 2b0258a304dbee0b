# SPDX-License-Identifier: Apache-2.0
"""benchmarks/drifted.py compares what a model tells of disturbed images."""

import numpy as np
import torch

from anomalib_vqflow import VQFlow
from tests.scripts import load_script, read_table
from tests.tiny import tiny_data, tiny_root

drifted = load_script("benchmarks/drifted.py")


def test_every_disturbance_has_a_row(config, checkpoint, capsys):
    """Defects first, of which nothing but scores is compared."""
    drifted.main([str(config), str(checkpoint)])
    rows = read_table(capsys.readouterr().out)
    assert list(rows) == ["with defects", *drifted.KINDS]
    assert all(0 <= float(cell) <= 1 for kind in drifted.KINDS for cell in rows[kind])


def test_images_that_are_not_disturbed_are_like_themselves(checkpoint, tmp_path):
    """They are told by chance only, keep their concepts, and are told from defects as well as normal ones are."""
    data = tiny_data(tiny_root(tmp_path / "products"))
    data.setup()
    model = VQFlow.load_from_checkpoint(checkpoint, map_location="cpu")
    defects, same = (cells for _, cells in drifted.measure(model, data, {"same": torch.clone}))
    assert same[0] == 0.5
    assert same[2] == 1.0
    np.testing.assert_allclose(same[3], 1 - defects[0])


def test_disturbances_keep_the_range_and_the_size():
    """They change images, which stay in [0, 1]."""
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    for kind, disturb in drifted.KINDS.items():
        found = disturb(images)
        assert found.shape == images.shape, kind
        assert found.min() >= 0, kind
        assert found.max() <= 1, kind
        assert not torch.equal(found, images), kind
