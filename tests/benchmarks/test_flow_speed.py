# SPDX-License-Identifier: Apache-2.0
"""benchmarks/flow_speed.py compares table lookup with plain convolution."""

import re

import numpy as np
import pytest
import torch

from tests.scripts import load_script, read_table
from tests.test_devices import CUDA

flow_speed = load_script("benchmarks/flow_speed.py")


@pytest.fixture
def arguments(config):
    return ["--config", str(config), "--threads", "1", "--batch", "2", "--rounds", "2"]


def worst(note):
    """Read the error of a row."""
    return float(re.search(r"differ by ([\d.e+-]+)", note)[1])


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_torch_computes_the_same_in_both_forms(arguments, capsys, monkeypatch, device):
    """A row for one image and one for a batch, with times and a difference that is only rounding."""
    monkeypatch.setattr(flow_speed.convolution, "TABLE_DEVICES", {"cpu"})
    flow_speed.main([*arguments, "--parts", "torch", "--device", device])
    rows = read_table(capsys.readouterr().out)
    assert list(rows) == ["torch, batch 1, flow side", "torch, batch 2, flow side"]
    for plain, tables, ratio, note in rows.values():
        assert all(float(cell.split()[0]) > 0 for cell in (plain, tables, ratio))
        assert worst(note) < 1e-3


def test_gradients_are_the_same_in_both_forms(config):
    """But for rounding, for every trainable parameter."""
    model = flow_speed.build(config, [], None)
    flow_speed.randomize_(model)
    training = flow_speed.Training(model, 2)
    assert training.gradient_error() < 1e-3
    assert all(parameter.grad.isfinite().all() for parameter in training.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_training_is_timed_and_its_memory_measured(arguments, capsys, monkeypatch, device):
    """One row of times, with a difference that is only rounding, and one of the memory of new processes."""
    monkeypatch.setattr(flow_speed.convolution, "TABLE_DEVICES", {"cpu"})
    flow_speed.main([*arguments, "--parts", "training", "--device", device])
    rows = read_table(capsys.readouterr().out)
    assert list(rows) == ["training step, batch 2, flow side", "Peak memory of training, MB"]
    assert worst(rows["training step, batch 2, flow side"][-1]) < 1e-3
    least = 100 if device == "cpu" else 1  # a process, or tensors only
    assert all(float(cell.replace(",", "")) > least for cell in rows["Peak memory of training, MB"][:2])


@pytest.mark.slow
def test_exports_compute_the_same_in_both_forms(arguments, capsys):
    """Flow side and whole model, the latter also over its backbone, with size and memory."""
    flow_speed.main([*arguments, "--parts", "openvino"])
    rows = read_table(capsys.readouterr().out)
    parts = [f"OpenVINO, batch 1, {part}" for part in ("flow side", "whole model")]
    assert list(rows)[:2] == parts
    assert list(rows)[2].startswith("... over its backbone")
    assert list(rows)[3:] == ["File, MB", "Peak memory of OpenVINO, MB"]
    assert all(worst(rows[part][-1]) < 1e-3 for part in parts)


def test_plain_convolves_all_channels(config):
    """In the plain form, no table row is looked up; else no convolution sees the channels of the condition."""
    model = flow_speed.build(config, [], None)
    details, semantic, _ = flow_speed.draw_features(model, 1)
    for name in flow_speed.FORMS:
        with torch.no_grad(), flow_speed.form(model, name):
            flow_speed.FlowSide(model)((*details, semantic))
            with torch.profiler.profile() as profile:
                flow_speed.FlowSide(model)((*details, semantic))
        looked_up = any("embedding_bag" in event.key for event in profile.key_averages())
        assert looked_up == (name == "tables")


def test_differences_are_over_the_range_of_what_is_expected():
    """The worst of several outputs; one that never varies is compared with its size."""
    expected = [np.array([0.0, 4.0]), np.array([2.0])]
    assert flow_speed.difference([np.array([0.0, 3.0]), np.array([2.0])], expected) == 0.25
    assert flow_speed.difference([np.array([0.0, 3.0]), np.array([1.0])], expected) == 0.5
