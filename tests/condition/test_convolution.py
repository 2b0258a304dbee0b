# SPDX-License-Identifier: Apache-2.0
"""The plain convolution of the map that a condition stands for is the oracle."""

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.condition import ConditionedConv2d, DiscreteCondition, convolution, frozen_tables
from anomalib_vqflow.condition.convolution import WORTH_A_NUMBER, saves_work

from .conditions import BATCH, GRIDS, KINDS, make_condition

CHANNELS, OUT_CHANNELS = 3, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tables(monkeypatch):
    """Take tables even where they cost more, and count how often they are built."""
    built = []

    def build(*arguments, build_table=convolution.build_table):
        built.append(1)
        return build_table(*arguments)

    monkeypatch.setattr(convolution, "saves_work", lambda *_: True)
    monkeypatch.setattr(convolution, "build_table", build)
    return built


def make_conv(condition) -> ConditionedConv2d:
    return ConditionedConv2d(CHANNELS + condition.shape[1], OUT_CHANNELS).to(condition.anchor.columns.dtype)


def make_x(condition, **options) -> torch.Tensor:
    return torch.randn(condition.shape[0], CHANNELS, *condition.grid, dtype=condition.anchor.columns.dtype, **options)


def plain(conv, x, condition) -> torch.Tensor:
    return F.conv2d(torch.cat((x, condition.dense()), dim=1), conv.weight, conv.bias, padding=1)


def no_dense(monkeypatch):
    """Let everything fail that spreads the condition out."""

    def refuse(self):
        raise NotImplementedError

    monkeypatch.setattr(DiscreteCondition, "dense", refuse)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_result_and_gradients_equal_the_plain_convolution(tables, grid, kind, trains, dtype, tolerance):
    """Output and every gradient: input, kernel, bias, prototype, and the query behind the straight-through pattern."""
    condition, behind = make_condition(grid, **kind, trains=trains, dtype=dtype)
    conv, x = make_conv(condition), make_x(condition, requires_grad=True)
    inputs = [x, conv.weight, conv.bias, *behind]
    actual, expected = conv(x, condition), plain(conv, x, condition)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, inputs, upstream, retain_graph=True)  # both share the pattern's graph
    expected_gradients = torch.autograd.grad(expected, inputs, upstream)

    for one, other in zip((actual, *gradients), (expected, *expected_gradients), strict=True):
        assert other.abs().max() > 0
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("grid", GRIDS)
def test_kept_table_equals_the_plain_convolution(tables, monkeypatch, grid, kind):
    """In inference the table is built once, and the condition is never spread out."""
    condition, _ = make_condition(grid, **kind, lasting=True)
    conv, x = make_conv(condition).eval(), make_x(condition)
    with torch.no_grad():
        expected = plain(conv, x, condition)
        no_dense(monkeypatch)
        assert_close(conv(x, condition), expected, atol=1e-9, rtol=0)
        assert_close(conv(x, condition), expected, atol=1e-9, rtol=0)
        assert len(tables) == 1


def renewed(condition) -> DiscreteCondition:
    """What the encoder would make of the codes and prototypes as they are now, because a condition never changes."""
    concept, patterns = condition.concept, condition.patterns
    concept = concept._replace(prototype=concept.prototypes[concept.rows])
    patterns = patterns._replace(codes=patterns.codebook[patterns.indices].permute(0, 3, 1, 2))
    return dataclasses.replace(
        condition, anchor=dataclasses.replace(condition.anchor, concept=concept), patterns=patterns
    )


def change_in_place(conv, condition):
    with torch.no_grad():
        conv.weight.mul_(2)


def replace_data(conv, condition):
    conv.weight.data = 2 * conv.weight.data


def load(conv, condition):
    conv.load_state_dict({name: 2 * value for name, value in conv.state_dict().items()})


def step(conv, condition):
    conv.weight.grad = torch.ones_like(conv.weight)
    torch.optim.Adam(conv.parameters(), lr=0.5).step()


def move_codes(conv, condition):
    condition.patterns.codebook.mul_(2)


def move_prototypes(conv, condition):
    condition.concept.prototypes.mul_(2)


def round_weights(conv, condition):
    conv.half().double()


def train_in_place_of_data(conv, condition):
    conv.train()
    conv.weight.data.mul_(2)  # not seen by autograd, hence not by its count of changes
    conv.eval()


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        replace_data,
        load,
        step,
        move_codes,
        move_prototypes,
        round_weights,
        train_in_place_of_data,
    ],
)
def test_kept_table_is_never_stale(tables, change):
    """Whatever changes kernel, codes or prototypes, the next result follows."""
    condition, _ = make_condition((2, 3), lasting=True)
    conv, x = make_conv(condition).eval(), make_x(condition)
    with torch.no_grad():
        before = conv(x, condition)
    change(conv, condition)
    with torch.no_grad():
        expected = plain(conv, x, renewed(condition))
        assert (before - expected).abs().max() > 1e-6
        assert_close(conv(x, condition), expected, atol=1e-9, rtol=0)
        assert len(tables) == 2


def test_kept_table_follows_the_grid(tables):
    """Another size of the map needs other position rows."""
    first, _ = make_condition((2, 3), lasting=True)
    conv = make_conv(first).eval()
    for grid in ((2, 3), (3, 2), (2, 3)):
        condition, _ = make_condition(grid, lasting=True)
        concept = condition.concept._replace(prototypes=first.concept.prototypes)
        condition = dataclasses.replace(
            condition,
            anchor=dataclasses.replace(condition.anchor, concept=concept),
            patterns=condition.patterns._replace(codebook=first.patterns.codebook),
        )
        condition = renewed(condition)
        x = make_x(condition)
        with torch.no_grad():
            assert_close(conv(x, condition), plain(conv, x, condition), atol=1e-9, rtol=0)


def test_table_kept_in_inference_mode_serves_outside(tables):
    """A table that was built without autograd, or under autocast, does not limit later calls."""
    condition, _ = make_condition((2, 3), lasting=True, dtype=torch.float32)
    conv, x = make_conv(condition).eval().requires_grad_(requires_grad=False), make_x(condition, requires_grad=True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        conv(x, condition)
    result = conv(x, condition)
    (grad,) = torch.autograd.grad(result.sum(), x)

    assert len(tables) == 1
    assert grad.any()
    assert_close(result, plain(conv, x, condition), atol=1e-5, rtol=0)


def test_table_is_no_state(tables):
    """Neither checkpoints nor copies nor pickles carry the table."""
    condition, _ = make_condition((2, 3), lasting=True)
    conv, x = make_conv(condition).eval(), make_x(condition)
    size = len(pickle.dumps(conv))
    with torch.no_grad():
        conv(x, condition)

    assert set(conv.state_dict()) == {"weight", "bias"}
    assert len(pickle.dumps(conv)) == size
    copied = copy.deepcopy(conv)
    with torch.no_grad():
        assert torch.equal(copied(x, condition), conv(x, condition))
    assert len(tables) == 2


def test_gradients_in_eval_mode_are_those_of_the_plain_convolution(tables):
    """Where a gradient is wanted, nothing is kept."""
    condition, _ = make_condition((2, 3), lasting=True)
    conv, x = make_conv(condition).eval(), make_x(condition)
    for _ in range(2):
        (actual,) = torch.autograd.grad(conv(x, condition).square().sum(), conv.weight)
        (expected,) = torch.autograd.grad(plain(conv, x, condition).square().sum(), conv.weight)
        assert_close(actual, expected, atol=1e-9, rtol=0)


def test_two_steps_before_one_backward(tables):
    """Gradients belong to the codes of their own forward pass; the encoder hands out copies of moving codes."""
    condition, _ = make_condition((2, 3), trains=True)
    conv, x = make_conv(condition), make_x(condition)
    loss = conv(x, condition).square().sum()
    (expected,) = torch.autograd.grad(plain(conv, x, condition).square().sum(), conv.weight)
    with torch.no_grad():
        conv(make_x(condition), make_condition((2, 3), trains=True)[0])

    assert_close(torch.autograd.grad(loss, conv.weight)[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("lasting", [False, True])
def test_autocast_is_as_close_as_the_plain_convolution(tables, lasting):
    """In bfloat16, results and gradients are no further from float32's than twice what the plain form's are."""
    condition, behind = make_condition((8, 8), trains=not lasting, lasting=lasting, dtype=torch.float32, batch=4)
    conv, x = make_conv(condition).train(not lasting), make_x(condition, requires_grad=True)
    inputs = [x, conv.weight, *behind]
    exact, upstream = plain(conv, x, condition), torch.randn(4, OUT_CHANNELS, 8, 8)
    truth = (exact, *torch.autograd.grad(exact, inputs, upstream, retain_graph=True))

    def errors(function):
        with torch.autocast("cpu", torch.bfloat16):
            result = function(x, condition)
        gradients = torch.autograd.grad(result, inputs, upstream.to(result.dtype), retain_graph=True)
        return [(a - b).abs().max() / b.abs().max() for a, b in zip((result, *gradients), truth, strict=True)]

    ours, theirs = errors(conv), errors(lambda *given: plain(conv, *given))
    assert max(theirs) > 1e-4, "autocast had no effect"
    assert all(one <= 2 * other + 1e-3 for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("grid", [(1, 1), (12, 12)])
def test_the_cheaper_form_is_taken(monkeypatch, grid):
    """Few cells under many codes are convolved plainly, many cells by table; the result is the same."""
    condition, _ = make_condition(grid, trains=True, batch=8)
    conv, x = make_conv(condition), make_x(condition)
    taken = []
    apply = convolution.ConditionConvolution.apply
    monkeypatch.setattr(convolution.ConditionConvolution, "apply", lambda *given: taken.append(1) or apply(*given))
    monkeypatch.setattr(convolution, "OVERHEAD", (0, 0))  # would drown these few channels
    result = conv(x, condition)

    assert len(taken) == saves_work(condition, OUT_CHANNELS, learns=True) == (grid != (1, 1))
    assert_close(result, plain(conv, x, condition), atol=1e-9, rtol=0)


def test_a_condition_that_is_a_map():
    """It is convolved plainly."""
    conv = ConditionedConv2d(7, 5)
    x = torch.randn(BATCH, 7, 4, 6)

    assert torch.equal(conv(x[:, :3], x[:, 3:]), F.conv2d(x, conv.weight, conv.bias, padding=1))


class Level(nn.Module):
    """A convolution under a condition whose grid is fixed, or that of the input."""

    def __init__(self, grid=(2, 3), *, fixed=True, **kind):
        super().__init__()
        self.condition, _ = make_condition(grid, lasting=True, **kind)
        self.conv = make_conv(self.condition)
        self.fixed = fixed

    def forward(self, x):
        condition = self.condition
        if not self.fixed:
            torch.manual_seed(1)
            condition, _ = make_condition(x.shape[2:], lasting=True, batch=x.shape[0])
            codebook = self.condition.patterns.codebook
            condition = renewed(dataclasses.replace(condition, patterns=condition.patterns._replace(codebook=codebook)))
        return self.conv(x, condition)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_frozen_table_equals_the_plain_convolution(monkeypatch, kind):
    """While frozen, the module holds a table and no condition's kernel; afterwards it is as before."""
    level = Level(**{"joined": True, **kind}).eval()
    x, state = make_x(level.condition), set(level.state_dict())
    with torch.no_grad():
        expected = plain(level.conv, x, level.condition)
        no_dense(monkeypatch)
        with frozen_tables(level, [x]):
            _, channels, *grid = level.condition.shape
            more = sum(level.condition.table_sizes) - 9 * channels
            assert level.conv.is_frozen == (9 * channels * math.prod(grid) > WORTH_A_NUMBER * more)
            assert_close(level(x), expected, atol=1e-9, rtol=0)
            assert set(level.state_dict()) == state
        assert not level.conv.is_frozen
        assert_close(level(x), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("width", "worth", "frozen"), [(3, 1e9, True), (40, 1e9, False), (40, 1, True)])
def test_only_tables_that_are_worth_their_size_are_frozen(monkeypatch, width, worth, frozen):
    """The position strips of a wide map outweigh a kernel of few channels; the work that they save may be worth it."""
    monkeypatch.setattr(convolution, "WORTH_A_NUMBER", worth)
    level = Level((2, width), patterns=False).eval()
    with frozen_tables(level, [make_x(level.condition)]):
        assert level.conv.is_frozen == frozen


def test_maps_of_any_size_are_not_frozen():
    """Where the grid follows the images, one table does not do."""
    level = Level(fixed=False).eval()
    examples = [torch.randn(2, CHANNELS, *grid, dtype=torch.float64) for grid in ((2, 3), (3, 4))]
    with frozen_tables(level, examples[:1]):
        assert level.conv.is_frozen
    with frozen_tables(level, examples):
        assert not level.conv.is_frozen


def test_export_holds_tables_instead_of_kernels():
    """A frozen module exports without the kernel's part for the condition."""
    level = Level().eval()
    x = make_x(level.condition)
    with frozen_tables(level, [x]):
        program = torch.export.export(level, (x,))
    expected = plain(level.conv, x, level.condition).detach()
    used = {node.target for node in program.graph.nodes if node.op == "placeholder" and node.users}

    assert_close(program.module()(x).detach(), expected, atol=1e-9, rtol=0)
    assert "p_conv_weight" not in used
