# SPDX-License-Identifier: Apache-2.0
"""benchmarks/large_images.py compares tiles with resizing."""

import numpy as np
import pytest
import torch

from tests.scripts import load_script, read_table

large_images = load_script("benchmarks/large_images.py")


@pytest.mark.slow
def test_both_ways_have_lines(capsys):
    """Each way has a line for each diameter, with areas and shares between 0 and 1, and times."""
    sizes = ["--image-size", "96", "128", "--tile-size", "64", "--diameters", "4", "8"]
    large_images.main([*sizes, "--categories", "plate", "--train", "2", "--test", "2", "--epochs", "1"])
    printed = capsys.readouterr().out

    lines = [line for line in printed.splitlines() if line.startswith(("| resized", "| in tiles"))]
    assert [line.split(" | ")[1] for line in lines] == ["4", "8", "4", "8"]
    assert len(read_table(printed)) == 2
    for line in lines:
        measures = [float(cell) for cell in line.split(" | ")[2:5]]
        assert all(0 <= value <= 1 for value in measures)


@pytest.mark.parametrize("level", [30, 200])
def test_a_speck_is_where_the_mask_is(level):
    """About as large as asked for, plain to see on dark and bright ground, and nothing far from it is changed."""
    image = np.full((1500, 2000, 3), level, dtype=np.uint8)
    changed, mask = large_images.with_speck(image, 12, np.random.default_rng(0))

    assert set(np.unique(mask)) == {0, 255}
    diameter = 2 * np.sqrt((mask > 0).sum() / np.pi)
    assert 11 < diameter < 16
    change = np.abs(changed.astype(int) - image).max(axis=2)
    assert change[mask > 0].min() > 50
    assert change.max() == change[mask > 0].max()
    rows, columns = change.nonzero()
    assert max(np.ptp(rows), np.ptp(columns)) < 4 * 12
    assert (image == level).all()


def test_measures_tell_what_is_found():
    """Higher scores of bad images, and higher values where the mask is, are 1; the other way round, 0."""
    score, nowhere = torch.tensor([0.2]), torch.zeros(1, 8, 8, dtype=torch.bool)
    somewhere = nowhere.clone()
    somewhere[0, 2, 3] = True
    flat = large_images.bin_scores(torch.full((1, 8, 8), 0.5))
    peak, pit = (large_images.bin_scores(0.5 + height * somewhere) for height in (0.4, -0.4))

    good = [(score, flat, nowhere)]
    assert large_images.measure(good, [(score + 0.1, peak, somewhere)]) == (1, 1, 1)
    worst = large_images.measure(good, [(score - 0.1, pit, somewhere)])
    assert worst[:2] == (0, 0)
    assert worst.pixel_ap < 0.01
