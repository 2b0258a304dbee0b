# SPDX-License-Identifier: Apache-2.0
"""benchmarks/endurance.py trains for long, and says what did not hold."""

import math

import pytest
import torch

from tests.scripts import load_script, read_table

endurance = load_script("benchmarks/endurance.py")

GOOD = [endurance.Row(step, 2.0 - step / 100, 7.0, 1000.0) for step in (10, 20, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_two_hundred_steps_hold(capsys, precision):
    """On images that drift, of which some are of one color; a row per tenth, and no complaint."""
    endurance.main(["--steps", "200", "--precision", precision])

    printed = capsys.readouterr().out
    assert list(read_table(printed)) == [f"{step}" for step in range(20, 201, 20)]
    assert "AUROC of 64 new images" in printed


@pytest.mark.parametrize(
    ("rows", "auroc", "finite", "complaint"),
    [
        (GOOD, 0.95, True, None),
        ([*GOOD, GOOD[0]], 0.95, True, "loss did not fall"),
        ([*GOOD, GOOD[-1]._replace(loss=math.nan)], 0.95, True, "loss did not fall"),
        ([GOOD[0], GOOD[1]._replace(perplexity=1.0), GOOD[2]], 0.95, True, "a codebook collapsed"),
        ([*GOOD, GOOD[-1]._replace(memory=1100.0)], 0.95, True, "memory grew by 100 MiB"),
        (GOOD, 0.8, True, "AUROC 0.800"),
        (GOOD, math.nan, True, "AUROC nan"),
        (GOOD, 0.95, False, "a weight is not finite"),
    ],
)
def test_what_does_not_hold_is_said(rows, auroc, finite, complaint):
    """Each by itself."""
    found = endurance.complaints(rows, auroc, finite)
    assert len(found) == (complaint is not None)
    assert all(complaint in words for words in found)


def test_images_follow_from_their_number_and_never_come_twice():
    """Black, white and colored batches come among striped ones; epochs go on where the one before ended."""
    flat = endurance.BATCH * endurance.FLAT_EVERY - endurance.BATCH
    images = [endurance.draw(index) for index in range(flat, flat + 2 * endurance.BATCH)]

    assert all(torch.equal(image, endurance.draw(flat + index)) for index, image in enumerate(images))
    deviations = torch.stack([image.std(dim=(1, 2)).max() for image in images])
    assert (deviations[: endurance.BATCH] == 0).all()
    assert (deviations[endurance.BATCH :] > 0.01).all()
    order = endurance.Onward()
    first = list(order)
    order.set_epoch(1)
    assert [*first, *order] == list(range(2 * len(first)))
