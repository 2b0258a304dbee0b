# SPDX-License-Identifier: Apache-2.0
"""The benchmarks that judge trainings run on small data and print what they promise."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anomalib_vqflow import VQFlow

from .tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model, tiny_root

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    """Benchmarks share helpers: a script's own folder is where Python looks first."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path):
    """A configuration of a tiny model on two categories."""
    model = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "visualizer": False}
    data = {
        "root": str(tiny_root(tmp_path / "products")),
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "num_workers": 0,
    }
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": model},
                "data": {"class_path": "anomalib_vqflow.MultiCategory", "init_args": data},
                "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False},
                "default_root_dir": str(tmp_path / "results"),
            }
        )
    )
    return path


@pytest.mark.slow
def test_calibration_is_judged_with_and_without(config, tmp_path, capsys):
    """Every row has two numbers, and the checkpoint on disk keeps its calibration."""
    engine = tiny_engine(tmp_path / "run")
    engine.fit(tiny_model(), datamodule=tiny_data(tmp_path / "products"))
    checkpoint = engine.best_model_path
    location = VQFlow.load_from_checkpoint(checkpoint).model.anomaly_map_generator.calibration.location
    benchmark("calibration").main([str(config), checkpoint])

    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0] for row in rows]
    assert {"| macro image AUROC", "| pooled pixel F1Max", "| foreign images above the threshold: black"} <= set(names)
    assert all(len(row.strip("|").split("|")) == 3 for row in rows)
    again = VQFlow.load_from_checkpoint(checkpoint).model.anomaly_map_generator.calibration.location
    assert torch.equal(location, again)


def test_the_best_f1_is_the_best_of_all_thresholds():
    """Against a search over every score."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40)
    scores = (generator.random(40) + 0.3 * labels).round(1)  # with ties
    module = benchmark("calibration")
    threshold, value = module.best_f1(labels, scores)

    assert value == pytest.approx(max(module.f1_score(labels, scores >= candidate) for candidate in scores))
    assert value == pytest.approx(module.f1_score(labels, scores >= threshold))


@pytest.mark.slow
def test_foreign_images_are_those_of_the_category_left_out(config, capsys):
    """One row for each category and their mean; nothing of the category left out is taken for normal."""
    benchmark("foreign").main([str(config), "--trainer.max_epochs", "1"])

    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| left out", "| bolt", "| nut", "| mean"]


@pytest.mark.slow
def test_eight_bits_prints_times_and_sizes(config, capsys):
    """The whole model is timed in both types beside its backbone, and takes less room in eight bits."""
    benchmark("eight_bits").main(["--config", str(config), "use_whitening=true", "--threads", "1", "--rounds", "2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines)}
    (backbone, *_), (full, ratio, size), (*_, smaller) = (
        rows[name] for name in ("backbone, FP32", "whole model, FP32", "whole model, INT8_PTQ")
    )
    backbone, full, ratio = (float(cell.split()[0]) for cell in (backbone, full, ratio))  # wall time
    assert (full - 0.05) / (backbone + 0.05) - 0.005 <= ratio <= (full + 0.05) / (backbone - 0.05) + 0.005  # as printed
    assert float(smaller) < float(size)
