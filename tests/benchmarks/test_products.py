# SPDX-License-Identifier: Apache-2.0
"""benchmarks/products.py draws many products, and tells what each number of them takes."""

import cv2
import numpy as np
import pytest
import torch

from benchmarks.measuring import NOT_EVALUABLE
from tests.scripts import load_script, read_table

products = load_script("benchmarks/products.py")


@pytest.mark.slow
def test_each_number_of_products_has_a_row_and_a_time(tmp_path, capsys):
    """Images and rows that are there are used again, and a single product has no purity."""
    arguments = ["--products", "2", "1", "--epochs", "1", "--size", "64", "--folder", str(tmp_path / "images")]
    arguments += ["--results", str(tmp_path / "results"), "--plot", str(tmp_path / "plot.png")]
    products.main(arguments)
    assert cv2.imread(str(tmp_path / "plot.png")) is not None
    kept = [path for suffix in ("png", "ckpt", "json") for path in tmp_path.glob(f"*/**/*.{suffix}")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    products.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.rindex("| products | concepts") : printed.rindex("| products | ms")])
    assert list(rows) == ["1", "2"]
    assert rows["1"][2] == NOT_EVALUABLE
    assert 0 <= float(rows["2"][2]) <= 1
    assert list(read_table(printed[printed.rindex("| products | ms") :])) == ["1", "2"]


@pytest.mark.slow
def test_a_training_that_was_ended_goes_on(tmp_path):
    """From its last checkpoint, whose time counts."""
    names = [products.write_product(tmp_path, number, 64) for number in range(2)]
    rows = []
    for epochs in (1, 2):
        data = products.MultiCategory(tmp_path, names, train_batch_size=16, eval_batch_size=16, num_workers=0)
        rows.append(products.train(data, names, epochs, 64, tmp_path / "results"))
        epochs_done = torch.load(products.last_checkpoint(tmp_path), weights_only=False)["epoch"] + 1
        assert epochs_done == epochs
    first, both = (row["training, s per image and epoch"] for row in rows)
    assert 2 * both > first > 0


def test_variants_are_other_products_with_the_same_defects():
    """The first is unchanged; each looks alike wherever it is drawn, and unlike the others."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = 255 * (np.arange(64 * 64).reshape(64, 64) < 100).astype(np.uint8)
    changed = [(products.change(image, variant), products.change(mask, variant)) for variant in range(20)]
    assert np.array_equal(changed[0][0], image)
    assert all(np.count_nonzero(found) == 100 for _, found in changed)
    assert len({found.tobytes() for found, _ in changed}) == 20
    assert np.array_equal(products.change(image, 7), changed[7][0])
