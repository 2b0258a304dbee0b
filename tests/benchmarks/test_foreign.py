# SPDX-License-Identifier: Apache-2.0
"""benchmarks/foreign.py scores products that the training left out."""

import pytest

from tests.scripts import load_script, read_table
from tests.tiny import tiny_data, tiny_model, tiny_root

foreign = load_script("benchmarks/foreign.py")


@pytest.mark.slow
def test_each_category_is_left_out_once(config, capsys):
    """One row for each category and their mean, with two numbers."""
    foreign.main([str(config), "--trainer.max_epochs", "1"])
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.index("| left out") :])
    assert list(rows) == ["bolt", "nut", "mean"]
    assert all(0 <= float(cell) <= 1 for cells in rows.values() for cell in cells)


def test_foreign_images_are_those_of_the_category_left_out(tmp_path):
    """All of its test images are foreign; of the others, the good ones are normal, and the rest is left out."""
    data = tiny_data(tiny_root(tmp_path, good=3, defect=2))
    data.setup()
    normal, found = foreign.score(tiny_model().eval(), data, "nut")
    assert (len(normal), len(found)) == (3, 5)
