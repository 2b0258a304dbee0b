# SPDX-License-Identifier: Apache-2.0
"""benchmarks/compression_accuracy.py judges exports by what users get."""

import math

import pytest
import torch

from tests.scripts import load_script, read_table

compression_accuracy = load_script("benchmarks/compression_accuracy.py")


@pytest.mark.slow
def test_each_way_is_compared_with_fp32(tmp_path, checkpoint, onnx_steps, capsys):
    """A row for FP32, which is off by nothing, one for the CPU's own choice, and one for each type asked for."""
    with onnx_steps():
        compression_accuracy.main([checkpoint, "--root", str(tmp_path / "products"), "--types", "FP16", "INT8_PTQ"])
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.index("|  | image AUROC") :])
    assert list(rows) == ["FP32", "FP32, CPU's choice", "FP16", "INT8_PTQ"]
    assert rows["FP32"][2:5] == ["0.00, at most 0.0", "0.00, at most 0.0", "0 of 8"]
    sizes = {name: float(cells[-1]) for name, cells in rows.items()}
    assert sizes["FP16"] < sizes["FP32"]
    assert sizes["INT8_PTQ"] < sizes["FP32"]


def test_aurocs_are_means_over_categories():
    """Each category counts once, for pixels only if it has masks."""
    predictions = compression_accuracy.Predictions(
        scores=torch.tensor([0.1, 0.9, 0.9, 0.1, 0.2]), labels=torch.zeros(5), maps=torch.tensor([[[0.0, 1.0]]] * 5)
    )
    masks = [torch.tensor([[False, True]])] * 2 + [None] * 3
    truth = compression_accuracy.Truth(["a", "a", "b", "b", "b"], torch.tensor([0, 1, 0, 1, 1]), masks)
    assert compression_accuracy.mean_auroc(predictions, truth) == (0.5, 1.0)
    without = truth._replace(masks=[None] * 5)
    assert math.isnan(compression_accuracy.mean_auroc(predictions, without)[1])


def test_differences_are_shares_of_the_range():
    """The mean and the largest, in percent."""
    expected = torch.tensor([0.0, 2.0, 1.0, 1.0])
    assert compression_accuracy.percent_off(expected + torch.tensor([0, 0, 0, 0.2]), expected) == pytest.approx(
        (2.5, 10)
    )
