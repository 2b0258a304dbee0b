# SPDX-License-Identifier: Apache-2.0
"""Exported files are whole, and say what was asked for."""

import onnx
import pytest
from anomalib.deploy import ExportType
from onnx import TensorProto, helper

from anomalib_vqflow.export.files import finish_onnx, whole_files


def test_files_come_at_the_end(tmp_path):
    """A finished export replaces the files of its names, and leaves no others behind."""
    place = tmp_path / "weights" / "onnx"
    place.mkdir(parents=True)
    (place / "model.onnx").write_text("old")
    with whole_files(tmp_path, ExportType.ONNX) as folder:
        written = place.parent.parent / folder / "weights" / "onnx"
        written.mkdir(parents=True)
        (written / "model.onnx").write_text("new")
        assert (place / "model.onnx").read_text() == "old"
    assert [path.name for path in place.iterdir()] == ["model.onnx"]
    assert (place / "model.onnx").read_text() == "new"


def test_a_failed_export_changes_nothing(tmp_path):
    """Half a file never looks like a whole one."""

    def fail():
        with whole_files(tmp_path, ExportType.OPENVINO) as folder:
            written = tmp_path / folder / "weights" / "openvino"
            written.mkdir(parents=True)
            (written / "model.xml").write_text("half")
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert list((tmp_path / "weights" / "openvino").iterdir()) == []


def test_a_root_that_is_a_file_is_named(tmp_path):
    """The error comes at once, and names the path."""
    (tmp_path / "root").write_text("in the way")
    with pytest.raises(OSError, match="root"), whole_files(tmp_path / "root", ExportType.TORCH):
        pass


@pytest.fixture
def graph(tmp_path):
    """Write a model of two outputs."""
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "one", "two")}
    nodes = [helper.make_node("Relu", ["input"], ["one"]), helper.make_node("Relu", ["one"], ["two"])]
    graph = helper.make_graph(nodes, "graph", [values["input"]], [values["one"], values["two"]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_outputs_are_chosen(graph):
    """The others stay in the graph."""
    finish_onnx(graph, ["two"], 18)
    model = onnx.load(graph)
    assert [output.name for output in model.graph.output] == ["two"]
    assert len(model.graph.node) == 2


def test_another_operator_set_is_refused(graph):
    """torch only logs that it could not write the one that was asked for."""
    with pytest.raises(ValueError, match="opset_version=20, only with 18"):
        finish_onnx(graph, ["two"], 20)
