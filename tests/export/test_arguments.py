# SPDX-License-Identifier: Apache-2.0
"""What cannot be exported is refused at once, in a sentence that names the argument."""

import onnx
import pytest
from anomalib.deploy import CompressionType

from anomalib_vqflow.export.arguments import check_file_name, compression_named, size_of_images
from tests.tiny import tiny_model

NEWEST = onnx.defs.onnx_opset_version()


@pytest.fixture(scope="module")
def untrained():
    return tiny_model()


@pytest.mark.parametrize("name", ["", "a/b", "../model", "model.onnx", "model.XML", "a\\b", "."])
def test_names_are_of_files(name):
    """A folder in the name would not exist, and a suffix would come twice."""
    with pytest.raises(ValueError, match="model_file_name must be a name"):
        check_file_name(name)


@pytest.mark.parametrize("name", ["model", "line 2", "v0.2"])
def test_other_names_are_fine(name):
    """Dots and spaces are nothing special."""
    check_file_name(name)


@pytest.mark.parametrize("size", [64, 64.0, [64, 64], (64.0, 64)])
def test_sizes_mean_height_and_width(size):
    """Whole numbers are pixels, one for both sides or one each."""
    assert size_of_images(size) == (64, 64)


@pytest.mark.parametrize(
    "size", ["64", "64,64", (64,), (64, 64, 64), 0, -64, (64, 0.5), 64.5, (64, None), ("64", 64), float("nan"), {64: 1}]
)
def test_other_sizes_are_refused(size):
    """The message tells what a size is."""
    with pytest.raises(ValueError, match="input_size must be height and width in pixels"):
        size_of_images(size)


@pytest.mark.parametrize("name", [*CompressionType, "int8_ptq", "INT8_ACQ", "fp16"])
def test_compressions_go_by_name(name):
    """In any case, as a word or as anomalib's type."""
    assert compression_named(name) == CompressionType(str(getattr(name, "value", name)).lower())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset_version": 11}, f"opset_version must be a number from 18 to {NEWEST}, got 11"),
        ({"opset_version": 17}, "opset_version must be"),
        ({"opset_version": NEWEST + 1}, "opset_version must be"),
        ({"opset_version": "18"}, "opset_version must be"),
        ({"export_params": False}, "export_params must be True"),
        ({"dynamo": False}, "dynamo=False"),
        ({"output_names": ["pred_score", "score"]}, "output_names must be some of pred_score, .*concept"),
        ({"output_names": []}, "output_names must be"),
        ({"input_size": "64"}, "input_size must be"),
        ({"model_file_name": "model.onnx"}, "model_file_name must be"),
    ],
    ids=str,
)
def test_onnx_arguments_are_refused(untrained, tmp_path, arguments, message):
    """Nothing is written, neither by ONNX's export nor by OpenVINO's."""
    with pytest.raises(ValueError, match=message):
        untrained.to_onnx(tmp_path, **arguments)
    ours = {key: arguments[key] for key in ("input_size", "model_file_name") if key in arguments}
    others = {key: value for key, value in arguments.items() if key not in ours}
    with pytest.raises(ValueError, match=message):
        untrained.to_openvino(tmp_path, **ours, onnx_kwargs=others)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["int4", "", "none", 8])
def test_unknown_compressions_are_refused(untrained, tmp_path, name):
    """Before the export, which takes a while."""
    with pytest.raises(ValueError, match="compression_type must be one of fp16, int8, int8_ptq, int8_acq, or None"):
        untrained.to_openvino(tmp_path, compression_type=name)
