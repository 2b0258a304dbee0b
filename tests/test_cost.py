# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/cost.py counts is what torch executes, and what the shapes say."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from .tiny import ARGUMENTS

ROOT = Path(__file__).parents[1]
PAIRS = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in ARGUMENTS.items()]
PAIRS = [pair.replace("(", "[").replace(")", "]") for pair in PAIRS]


@pytest.fixture(scope="module")
def cost():
    spec = importlib.util.spec_from_file_location("benchmark_cost", ROOT / "benchmarks" / "cost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(cost):
    return cost.build(ROOT / "configs" / "light_cpu.yaml", [*PAIRS, "flow_steps=[2,1,1]"], (64, 96)).model


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 96)


def macs(costs):
    return {room: value.total("macs") for room, value in costs.items()}


def test_rooms_add_up_to_the_whole_model(cost, model, images):
    """Nothing is lost between the rooms, and nothing counted twice: neither multiplications nor parameters."""
    costs = cost.count(model, images)
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        model(images)
    assert sum(macs(costs).values()) == whole.get_total_flops() // 2
    assert sum(value.parameters for value in costs.values()) == sum(p.numel() for p in model.parameters())


def test_plain_flows_cost_what_their_shapes_say(cost, model, images):
    """Spread out, each coupling convolves half of its channels and the whole condition, and then the hidden width."""
    with cost.spread_out(model):
        counted = macs(cost.count(model, images))
    condition, hidden = model.conditions.condition_dim, ARGUMENTS["hidden_dim"]
    for level, (couplings, (channels, height, width)) in enumerate(
        zip(model.flow.scale_flows, model.features.detail_shapes, strict=True)
    ):
        kept, changed = channels - channels // 2, channels // 2
        of_a_coupling = height * width * 9 * hidden * (kept + condition + 2 * changed)
        whitening = height * width * channels**2
        (room,) = (name for name in counted if name.startswith(f"flow {level}"))
        of_the_gaussian = 2 * model.flow.gaussians[level].mean.weight.numel()
        assert counted[room] == len(couplings) * of_a_coupling + whitening + of_the_gaussian


def test_looked_up_conditions_are_counted_as_look_ups(cost, model, images):
    """Looked up, the flows multiply less, and their tables and additions show; the other rooms stay as they are."""
    looked_up = cost.count(model, images)
    with cost.spread_out(model):
        plain = cost.count(model, images)
    for room, value in looked_up.items():
        if room.startswith("flow"):
            assert value.total("macs") < plain[room].total("macs")
            assert value.total("look_ups") > plain[room].total("look_ups") == 0
            assert value.table_bytes > plain[room].table_bytes == 0
        elif room != "fusion":
            assert value.total("macs") == plain[room].total("macs")


def test_watching_leaves_the_model_as_it_was(cost, model, images):
    """After counting, the model's methods are its own again, and it predicts what it did."""
    with torch.no_grad():
        before = model(images).pred_score
        cost.count(model, images)
        assert torch.equal(model(images).pred_score, before)
    assert not [module for module in model.modules() if {"forward", "transform", "quantize"} & vars(module).keys()]


def test_the_bound_is_the_longer_of_arithmetic_and_memory(cost):
    """Each operator takes its FLOPs or its bytes, whichever takes longer."""
    operators = [cost.Operator(macs=50, look_ups=0, read=1, written=1), cost.Operator(1, 0, read=10, written=20)]
    assert cost.Cost(operators=operators).bound(peak=100, bandwidth=10) == pytest.approx(1.0 + 3.0)


def test_the_command_prints_every_room(cost, capsys, monkeypatch):
    """A configuration with changes gives a table with a line per room, times that add up, and the roofline."""
    monkeypatch.setattr(cost, "COPY_FLOATS", 2**16)
    config = str(ROOT / "configs" / "light_cpu.yaml")
    cost.main([*PAIRS, "--config", config, "--input-size", "64", "64", "--measure", "--repetitions", "2"])
    printed = capsys.readouterr().out
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("|")}
    assert {"backbone", "concept", "condition 0", "flow 2, 1 couplings", "fusion", "map", "all"} <= table.keys()
    times = {name: float(cells[6]) for name, cells in table.items() if name not in {"room", "---"}}
    assert times["backbone"] > 0
    assert times.pop("all") == pytest.approx(sum(times.values()), abs=0.01 * len(times))
    assert "GFLOP/s" in printed
    assert "64×64" in printed


def test_a_pair_without_a_value_is_refused(cost):
    """A word that is no name=value is an error that shows one."""
    with pytest.raises(ValueError, match="hidden_dim=64"):
        cost.build(None, ["hidden_dim"], None)
