# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim

from anomalib_vqflow.constants import MOST_KEPT, constant

CPU = torch.device("cpu")


@pytest.fixture
def ramp():
    """A function that tells how often it made something."""
    calls = []

    @constant
    def make(size, device):
        calls.append(size)
        return torch.arange(size, dtype=torch.float32, device=device)

    make.calls = calls
    return make


class Scaled(nn.Module):
    """Weighs columns by a ramp."""

    def __init__(self, ramp):
        super().__init__()
        self.ramp = ramp

    def forward(self, x):
        return x * self.ramp(x.shape[1], x.device)


def operations(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_the_same_arguments_make_one_tensor(ramp):
    """Others make another; the oldest of too many is made again."""
    assert ramp(2, CPU) is ramp(2, CPU)
    assert ramp(3, CPU).tolist() == [0, 1, 2]
    assert ramp.calls == [2, 3]
    for size in range(MOST_KEPT + 4):
        ramp(size, CPU)
    ramp(2, CPU)
    assert ramp.calls == [2, 3, *(size for size in range(MOST_KEPT + 4) if size not in {2, 3}), 2]


def test_what_inference_made_serves_in_training(ramp):
    """An inference tensor could not be saved for a backward pass."""
    with torch.inference_mode():
        ramp(3, CPU)
    x = torch.ones(2, 3, requires_grad=True)
    Scaled(ramp)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 2]] * 2


def test_stand_ins_are_not_kept(ramp):
    """They have no values."""
    with FakeTensorMode():
        ramp(3, CPU)
    assert ramp(3, CPU).tolist() == [0, 1, 2]


@pytest.mark.parametrize("is_kept", [False, True])
def test_exports_hold_what_was_kept(ramp, is_kept):
    """As a constant, without the operations that made it; they do not keep anything themselves."""
    x = torch.randn(2, 3)
    if is_kept:
        ramp(3, CPU)
    program = torch.export.export(Scaled(ramp), (x,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    assert [name for name in operations(program) if "arange" in name] == ([] if is_kept else ["aten.arange.default"])
    assert torch.equal(program.module()(x), x * torch.arange(3.0))
    assert ramp(3, CPU).tolist() == [0, 1, 2]


def test_exports_for_any_size_make_it(ramp):
    """A size that is not known yet has no constant."""
    ramp(3, CPU)
    program = torch.export.export(Scaled(ramp), (torch.randn(2, 3),), dynamic_shapes=({1: Dim.DYNAMIC},), strict=False)
    x = torch.randn(2, 5)
    assert torch.equal(program.module()(x), x * torch.arange(5.0))


def test_compiled_models_trace_it(ramp):
    """Without a break in the graph."""
    x = torch.randn(2, 3)
    compiled = torch.compile(Scaled(ramp), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), x * torch.arange(3.0))
