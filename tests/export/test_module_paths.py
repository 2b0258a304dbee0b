# SPDX-License-Identifier: Apache-2.0
"""Every node of an exported graph tells the module that it comes from."""

import onnx
import openvino
import pytest
import torch
from torch import nn

from anomalib_vqflow.export.module_paths import is_in_module, name_nodes_by_module, paths_of


class Scaled(nn.Module):
    """A layer inside, and a product that is the module's own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return 2 * self.layer(x)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Eleven modules in a row, so that the path of one is the start of another's."""
    path = tmp_path_factory.mktemp("paths") / "model.onnx"
    model = nn.Sequential(*(Scaled() for _ in range(11))).eval()
    torch.onnx.export(model, (torch.zeros(1, 3),), path, dynamo=True, opset_version=18, verbose=False)
    name_nodes_by_module(path)
    return path


def test_nodes_are_named_by_the_innermost_module(path):
    """Names stay unique, and the model stays valid and keeps its weights."""
    onnx.checker.check_model(path)
    names = [node.name for node in onnx.load(path).graph.node]
    assert len(set(names)) == len(names)
    modules = {name.partition("/")[0] for name in names}
    assert {f"{index}" for index in range(11)} | {f"{index}.layer" for index in range(11)} <= modules


def test_openvino_keeps_the_names(path):
    """Each of the eleven matrix products is found by its own module, and by no other of them."""
    operators = openvino.convert_model(path).get_ops()
    products = [o.get_friendly_name() for o in operators if o.get_type_name() == "MatMul"]
    for index in range(11):
        assert sum(is_in_module(name, [str(index)]) for name in products) == 1


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("model.levels.1/node_Conv", True),
        ("model.levels.1/node_Conv/WithoutBiases", True),  # what OpenVINO makes of it
        ("model.levels.1.subnet.0/node_Conv", True),
        ("model.levels.10/node_Conv", False),
        ("model.levels/node_Conv", False),
        ("node_Conv", False),
    ],
)
def test_paths_end_where_modules_do(name, inside):
    """A module's nodes are its own and those of modules inside, not those of one with a longer number."""
    assert is_in_module(name, ["model.flow", "model.levels.1"]) is inside


def test_paths_of_classes():
    """Modules are found at every depth, in the order of ``named_modules``."""
    model = nn.ModuleDict({"a": Scaled(), "b": nn.Sequential(nn.ReLU(), nn.Linear(2, 2))})
    assert paths_of(model, (nn.Linear,)) == ["a.layer", "b.1"]
    assert paths_of(model, (nn.ReLU, Scaled)) == ["a", "b.0"]
