# SPDX-License-Identifier: Apache-2.0
"""benchmarks/seeds.py repeats a training and puts its results together."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.scripts import load_script, read_table
from tests.tiny import tiny_data, tiny_model, tiny_root

seeds = load_script("benchmarks/seeds.py")


@pytest.mark.slow
def test_each_seed_is_a_training_of_its_own(config, capsys):
    """A row for each category, their mean and all images, with means of two seeds; options reach the trainer."""
    seeds.main([str(config), "--seeds", "0", "1", "--trainer.max_epochs", "2"])
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.index("seeds 0, 1") :])
    assert list(rows) == ["bolt", "nut", "macro", "pooled"]
    assert all(re.fullmatch(r"\d\.\d{3} ± \d\.\d{3}", cells[0]) for cells in rows.values())
    assert re.search(r"concepts in use: \d", printed)


def test_concepts_are_compared_with_categories(tmp_path, monkeypatch):
    """A concept for each category is pure and tells all; one for both tells nothing."""
    data = tiny_data(tiny_root(tmp_path))
    data.setup()
    model = tiny_model()
    num_images = len(data.test_data)
    known = [path.split("/")[-4] for path in data.test_data.samples.image_path]
    for concepts, expected in (
        ([int(name == "nut") for name in known], (2.0, 1.0, 1.0)),
        ([0] * num_images, (1.0, 0.5, 0.0)),
    ):
        left = iter(concepts)

        def predict(images, left=left):
            return SimpleNamespace(concept=torch.tensor([next(left) for _ in images]))

        monkeypatch.setattr(model.model, "forward", predict)
        assert np.allclose(list(seeds.concept_measures(model, data).values()), expected)
