# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/cost.py counts is what torch executes, and what the shapes say."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.scripts import load_script, read_table
from tests.tiny import ARGUMENTS

cost = load_script("benchmarks/cost.py")


@pytest.fixture
def model(config):
    return cost.build(config, ["flow_steps=[2,1,1]", "use_whitening=true"], (64, 96)).model


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 96)


def macs(costs):
    return {name: value.total("macs") for name, value in costs.items()}


def test_modules_add_up_to_the_whole_model(model, images):
    """Nothing is lost between the modules, and nothing counted twice: neither multiplications nor parameters."""
    costs = cost.count(model, images)
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        model(images)
    assert sum(macs(costs).values()) == whole.get_total_flops() // 2
    assert sum(value.parameters for value in costs.values()) == sum(p.numel() for p in model.parameters())


def test_modules_cost_what_torch_counts_for_them(model, images):
    """Each has the multiplications that torch's own counter finds under its name, less those of the ones inside."""
    counted = macs(cost.count(model, images))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    names = {module: name for name, module in model.named_modules()}
    found = {
        name: sum(counter.get_flop_counts().get(f"VQFlowModel.{names[module]}", {}).values()) // 2
        for name, module in cost.modules_of(model).items()
    }
    found["conditions, shared"] -= sum(value for name, value in found.items() if name.startswith("condition "))
    found["conditions, shared"] -= found["condition, semantic"]
    assert found == {name: value for name, value in counted.items() if name != cost.BETWEEN}


def test_plain_flows_cost_what_their_shapes_say(model, images):
    """In plain form, each coupling convolves half of its channels and the condition, and then the hidden width."""
    with cost.dense_conditions(model):
        counted = macs(cost.count(model, images))
    condition, hidden = model.conditions.condition_dim, ARGUMENTS["hidden_dim"]
    shapes = zip((2, 1, 1), model.features.detail_shapes, strict=True)
    for level, (num_couplings, (channels, height, width)) in enumerate(shapes):
        kept, changed = channels - channels // 2, channels // 2
        of_a_coupling = height * width * hidden * (9 * (kept + condition) + 2 * changed)  # the second one is pointwise
        whitening = height * width * channels**2
        of_the_gaussian = 2 * channels * ARGUMENTS["concept_dim"]
        expected = num_couplings * of_a_coupling + whitening + of_the_gaussian
        assert counted[f"flow {level}, {num_couplings} couplings"] == expected


def test_table_lookups_are_counted_as_such(model, images):
    """With tables, the flows multiply less, and tables and additions show; the other modules stay as they are."""
    looked_up = cost.count(model, images)
    with cost.dense_conditions(model):
        plain = cost.count(model, images)
    for name, value in looked_up.items():
        if name.startswith("flow"):
            assert value.total("macs") < plain[name].total("macs")
            assert value.total("lookups") > plain[name].total("lookups") == 0
            assert value.table_bytes > plain[name].table_bytes == 0
        elif name != "fusion":
            assert value.total("macs") == plain[name].total("macs")


def test_counting_leaves_the_model_as_it_was(model, images):
    """No hook is left, and the model predicts what it did."""
    with torch.no_grad():
        before = model(images).pred_score
        cost.count(model, images)
        cost.measure(model, images, 1)
        assert torch.equal(model(images).pred_score, before)
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_times_belong_to_the_innermost_module():
    """What runs inside of two of the modules counts for the inner one, and what runs outside for neither."""
    inner, outer = torch.nn.Identity(), torch.nn.Sequential()
    outer.append(inner)
    names = []
    with cost.Tracker({"inner": inner, "outer": outer}) as tracker:
        for module in (inner, outer):
            module.register_forward_pre_hook(lambda *_: names.append(tracker.current))
        outer(torch.zeros(1))
        names.append(tracker.current)
    assert names == ["outer", "inner", cost.BETWEEN]
    assert tracker.seconds.keys() == {"inner", "outer", cost.BETWEEN}


def test_the_bound_is_the_longer_of_arithmetic_and_memory():
    """Each operator takes its FLOPs or its bytes, whichever takes longer."""
    operators = [cost.Operator(macs=50, lookups=0, read=1, written=1), cost.Operator(1, 0, read=10, written=20)]
    assert cost.Cost(operators=operators).bound(peak=100, bandwidth=10) == pytest.approx(1.0 + 3.0)


def test_every_module_has_a_line(config, capsys, monkeypatch):
    """A configuration with changes gives a table with a line per module, times that add up, and the roofline."""
    monkeypatch.setattr(cost, "COPY_FLOATS", 2**16)
    monkeypatch.setattr(cost, "MATRIX", 64)
    cost.main(["hidden_dim=8", "--config", str(config), "--measure", "--repetitions", "2"])
    printed = capsys.readouterr().out
    rows = read_table(printed)
    assert {"backbone", "concept", "condition 0", "flow 2, 1 couplings", "fusion", "map", "all"} <= rows.keys()
    times = {name: float(cells[6]) for name, cells in rows.items()}
    assert times["backbone"] > 0
    assert times.pop("all") == pytest.approx(sum(times.values()), abs=0.01 * len(times))
    assert "GFLOP/s" in printed
    assert "64×64" in printed
