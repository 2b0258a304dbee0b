# SPDX-License-Identifier: Apache-2.0
"""benchmarks/products.py draws many products, and tells what each number of them takes."""

import numpy as np
import pytest

from benchmarks.measuring import NOT_EVALUABLE
from tests.scripts import load_script, read_table

products = load_script("benchmarks/products.py")


@pytest.mark.slow
def test_each_number_of_products_has_a_row_and_a_time(tmp_path, capsys):
    """Images that are there are used again, and a single product has no purity."""
    arguments = ["--products", "2", "1", "--epochs", "1", "--size", "64", "--folder", str(tmp_path)]
    products.main(arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    products.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.rindex("| products | concepts") : printed.rindex("| products | ms")])
    assert list(rows) == ["1", "2"]
    assert rows["1"][2] == NOT_EVALUABLE
    assert 0 <= float(rows["2"][2]) <= 1
    assert list(read_table(printed[printed.rindex("| products | ms") :])) == ["1", "2"]


def test_variants_are_other_products_with_the_same_defects():
    """The first is unchanged; each looks alike wherever it is drawn, and unlike the others."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = 255 * (np.arange(64 * 64).reshape(64, 64) < 100).astype(np.uint8)
    changed = [(products.change(image, variant), products.change(mask, variant)) for variant in range(20)]
    assert np.array_equal(changed[0][0], image)
    assert all(np.count_nonzero(found) == 100 for _, found in changed)
    assert len({found.tobytes() for found, _ in changed}) == 20
    assert np.array_equal(products.change(image, 7), changed[7][0])
