# SPDX-License-Identifier: Apache-2.0
"""Exported models predict what the Lightning model predicts."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import seed_everything
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from anomalib_vqflow.data import read_image
from anomalib_vqflow.export import int8, mixin
from anomalib_vqflow.image_files import TrueImageVisualizer
from anomalib_vqflow.prediction.exported import ExportedModel
from anomalib_vqflow.prediction.predictions import Picture
from anomalib_vqflow.quantization import Codebook
from tests.tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model

from .predictions import FP32, TOLERANCE, check_equal, some_images

SIZES = [(64, 64), (100, 150), (40, 48)]  # nominal, shrinking, growing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx in openvino", "openvino"])
def test_predictions_equal_lightning(model, predictor, kind, batch, size):
    """An export without an input size takes any batch and image size, and predicts what the Lightning model does."""
    images = some_images(batch, size)
    with torch.no_grad():
        expected = model(images)
    check_equal(predictor(kind)(images), expected)


@pytest.mark.parametrize("kind", ["torch", "onnx in openvino", "openvino"])
def test_inferencers_equal_engine(folder, root, checkpoint, predictor, kind):
    """From a file and from its array, anomalib's inferencers predict what ``Engine.predict`` does.

    The file is larger than the model's input. anomalib resizes with antialiasing in the engine, and without in its own
    exports: on real images of twice and five times the input size, the image scores of a model trained on four of the
    categories in ``../shared/data`` then moved by up to half of their range, pixels by up to 45 % of it, and up to
    7 % more good images raised an alarm. Its users should get the scores that the thresholds were fitted to, so our
    exports antialias.
    """
    path = root / "bolt" / "test" / "hole" / "000.png"
    (expected,) = tiny_engine(folder).predict(tiny_model(), data_path=path, ckpt_path=checkpoint)
    check_equal(predictor(kind)(path), expected)
    check_equal(predictor(kind)(np.asarray(Image.open(path))), expected)


def test_codes_equal_lightning(model, exported, folder):
    """The exported model assigns every image to the same concept and every cell to the same pattern."""
    graph = onnx.load(exported("onnx"))
    choices = [node.output[0] for node in graph.graph.node if node.op_type == "ArgMin"]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in choices)
    onnx.save(graph, folder / "codes.onnx")
    images = some_images(4, (100, 150))
    actual = onnxruntime.InferenceSession(folder / "codes.onnx").run(choices, {"input": images.numpy()})

    expected = []
    codebooks = [module for module in model.model.modules() if isinstance(module, Codebook)]
    hooks = [book.register_forward_hook(lambda *call: expected.append(call[-1].indices)) for book in codebooks]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    assert len(expected) == len(choices) == 1 + 4  # concept, three detail levels, semantic level
    assert len(expected[0].unique()) > 1
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_graph_holds_inference_only(model, exported):
    """No node is for training, none is idle, and no tensor is stored that inference does not need."""
    graph = onnx.load(exported("onnx")).graph
    kinds = {node.op_type for node in graph.node}
    training = {"BatchNormalization", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike", "ScatterND"}
    assert not kinds & training
    assert not kinds & {"If", "Loop", "Scan"}
    axes = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer if "val" in tensor.name}
    model_nodes = [node for node in graph.node if node.name.startswith("model")]
    sums = [axes[node.input[1]] for node in model_nodes if node.op_type == "ReduceSum"]
    assert all(axis == [1] for axis in sums)  # scores may need the log-determinant of a cell, only the loss an image's

    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        assert needed & set(node.output), f"{node.name} leads nowhere"
        needed |= set(node.input)
    stored = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    assert stored.keys() <= needed
    assert not any("code_sums" in name for name in stored)
    parameters = sum(p.numel() for p in model.model.parameters())
    codes = sum(m.codes.numel() for m in model.model.modules() if isinstance(m, Codebook))
    assert sum(stored.values()) < 1.01 * (parameters + codes)  # nothing of the size of a Jacobian or a table


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_outputs(exported, kind):
    """The model says what anomalib's inferencers expect, for any batch size."""
    outputs = openvino.Core().read_model(exported(kind)).outputs
    assert {output.any_name for output in outputs} == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    assert all(output.partial_shape[0].is_dynamic for output in outputs)


def test_concepts_can_be_read(model, exported):
    """Each format tells the concept of each image: torch at once, the others on demand."""
    images = some_images(4, (100, 150))
    with torch.no_grad():
        expected = model(images).concept
    assert len(expected.unique()) > 1

    graph = onnx.load(exported("onnx"))
    graph.graph.output.append(helper.make_tensor_value_info("concept", TensorProto.INT64, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    np.testing.assert_array_equal(session.run(["concept"], {"input": images.numpy()})[0], expected)
    assert torch.equal(TorchInferencer(exported("torch"), device="cpu").model(images).concept, expected)
    inferred = openvino.Core().read_model(exported("openvino"))
    inferred.add_outputs("concept")
    np.testing.assert_array_equal(openvino.compile_model(inferred, "CPU", FP32)(images.numpy())["concept"], expected)


@pytest.mark.parametrize(("score_map", "are_equal"), [("likelihood", False), ("additive", True)])
def test_raw_values_can_be_read(tmp_path, score_map, are_equal):
    """Score and maps before the post-processor, also where the score is made of the map."""
    model, images = tiny_model(score_map=score_map, map_levels=[0, 1, 2]), some_images(3, (64, 64))
    images = (255 * images).round() / 255  # which bytes hold
    model.train().model(images)
    raw, _ = model.eval().raw_and_told(images[:1])
    predict = ExportedModel(model.to_openvino(tmp_path), tells_raw=True)
    found = predict.start(Picture(None, (255 * images[0]).round().byte().permute(1, 2, 0).numpy()))().raw

    assert found.score == pytest.approx(raw.pred_score.item(), abs=0.01)
    for name, map_ in (("raw_map", found.anomaly_map), ("raw_score_map", found.score_map)):
        np.testing.assert_allclose(map_, getattr(raw, name).detach()[0, 0], atol=0.05, rtol=0)
    assert np.array_equal(found.anomaly_map, found.score_map) == are_equal


def test_the_concept_is_an_output_where_it_is_asked_for(monkeypatch, tmp_path):
    """``output_names`` choose among all that the model can tell."""
    kept = []
    monkeypatch.setattr(torch.onnx, "export", lambda **_: None)
    monkeypatch.setattr(mixin, "name_nodes_by_module", lambda _: None)
    monkeypatch.setattr(mixin, "finish_onnx", lambda _, outputs, opset, _notes: kept.append((outputs, opset)))
    tiny_model().to_onnx(tmp_path, output_names=["concept", "pred_score"])
    tiny_model().to_onnx(tmp_path)
    assert kept == [(["concept", "pred_score"], 18), (["pred_score", "anomaly_map"], 18)]  # no labels before training


def test_a_model_that_was_never_trained_is_told(tmp_path, model):
    """Random flows score, but not anomalies."""
    with pytest.warns(UserWarning, match="never trained"):
        tiny_model().to_torch(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.to_torch(tmp_path)


@pytest.fixture(scope="module")
def unlabeled(folder, root):
    """A model that has no threshold, as one in the middle of a training."""
    model = tiny_model()
    tiny_engine(folder / "unlabeled").fit(model, datamodule=tiny_data(root))
    model.post_processor.reset_()
    return model.eval()


@pytest.mark.parametrize("kind", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_without_a_threshold_there_is_no_label(unlabeled, root, tmp_path, kind):
    """An export says so, and anomalib's inferencers and visualizer take what it tells."""
    with pytest.warns(UserWarning, match=r"no threshold, .* raw scores and maps, but no labels and masks"):
        path = unlabeled.to_torch(tmp_path) if kind == "torch" else unlabeled.to_openvino(tmp_path)
    options = {"device": "cpu"} if kind == "torch" else {"device": "CPU", "config": FP32}
    predict = (TorchInferencer if kind == "torch" else OpenVINOInferencer)(path, **options).predict
    image = root / "bolt" / "test" / "hole" / "000.png"
    found, expected = predict(image), unlabeled(read_image(image)[None])
    assert found.pred_label is found.pred_mask is None
    assert found.pred_score.item() == pytest.approx(expected.pred_score.item(), abs=TOLERANCE)
    assert predict(read_image(image)).pred_score.item() == pytest.approx(expected.pred_score.item(), abs=TOLERANCE)
    assert ImageVisualizer().visualize(found).size == (3 * 256, 256)  # the last with nothing on it
    assert TrueImageVisualizer().visualize(found).size == (2 * 256, 256)


def test_accuracy_needs_labels(model):
    """Without a threshold and a metric of scores there is nothing to judge by."""
    outputs = [SimpleNamespace(names={"pred_score"}), SimpleNamespace(names={"anomaly_map"})]
    with pytest.raises(ValueError, match=r"INT8_ACQ judges by labels, .* give a metric of scores"):
        model._compress(SimpleNamespace(outputs=outputs), CompressionType.INT8_ACQ)


def test_operator_set(monkeypatch, tmp_path):
    """ONNX is written in the exporter's own operator set, unless the user asks for another."""
    asked = []
    monkeypatch.setattr(torch.onnx, "export", lambda **arguments: asked.append(arguments["opset_version"]))
    for name in ("name_nodes_by_module", "finish_onnx"):
        monkeypatch.setattr(mixin, name, lambda *_: None)  # of a file that is not written
    tiny_model().to_onnx(tmp_path)
    tiny_model().to_onnx(tmp_path, opset_version=20)
    assert asked == [18, 20]


def test_layers_are_named_by_modules(model, exported):
    """Every convolution and matrix product of the ONNX model tells by its name which module it comes from."""
    paths = {path for path, _ in model.named_modules()}
    layers = [node for node in onnx.load(exported("onnx")).graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    modules = {node.name.partition("/")[0] for node in layers}
    assert modules <= paths
    assert {".".join(path.split(".")[:2]) for path in modules} >= {"model.features", "model.concept", "model.flow"}


@pytest.mark.parametrize(
    ("compression", "arguments", "message"),
    [
        ("int8_ptq", {}, "INT8_PTQ needs images: give a datamodule"),
        ("int8_acq", {}, "INT8_ACQ needs images: give a datamodule"),
        ("int8_ptq", {"val_split_mode": "none"}, "INT8_PTQ needs validation images"),
    ],
)
def test_what_cannot_be_compressed_is_refused(model, exported, root, compression, arguments, message):
    """The message says what is missing."""
    inferred = openvino.Core().read_model(exported("openvino"))
    datamodule = tiny_data(root, **arguments) if arguments else None
    with pytest.raises(ValueError, match=message):
        model._compress(inferred, CompressionType(compression), datamodule)


def test_images_to_quantize_with_are_read_as_in_training(model, exported, root, monkeypatch):
    """In its range, whatever they would need themselves."""
    monkeypatch.setattr(mixin, "quantize", lambda *_: "quantized")
    monkeypatch.setattr(model, "bit_depth", 14)
    datamodule = tiny_data(root)
    with pytest.warns(UserWarning, match="8 validation images"):
        model._compress(openvino.Core().read_model(exported("openvino")), CompressionType.INT8_PTQ, datamodule)
    assert datamodule.val_data.bit_depth == 14


def test_accuracy_needs_anomalous_test_images():
    """Without any, every model would be as good as any other."""
    good_only = SimpleNamespace(setup=lambda _: None, val_data=[0], test_data=SimpleNamespace(has_anomalous=False))
    with pytest.raises(ValueError, match="INT8_ACQ judges by test images, of which none is anomalous"):
        int8.set_up_images(good_only, CompressionType.INT8_ACQ)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "arguments"),
    [("fp16", {}), ("int8", {}), ("int8_ptq", {}), ("int8_acq", {"max_drop": 0.5})],
)
def test_compressed(model, exported, compression, arguments):
    """Every compression exports from a checkpoint, with images of any size, to a smaller model that still predicts."""
    path = exported("openvino", compression, **arguments)
    images = some_images(4, (100, 150))
    prediction = OpenVINOInferencer(path, device="CPU", config=FP32).predict(images)
    with torch.no_grad():
        expected = model(images)
    error = np.abs(prediction.anomaly_map.reshape(expected.anomaly_map.shape) - expected.anomaly_map.numpy())
    assert error.mean() < 0.1 * np.ptp(expected.anomaly_map.numpy())
    full = exported("openvino").with_suffix(".bin").stat().st_size
    # Without whitening, the backbone, which has half of this model's numbers, stays as it is.
    assert path.with_suffix(".bin").stat().st_size < (0.6 if compression == "fp16" else 0.7) * full


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "int8_ptq"])
def test_static_size(model, exported, compression):
    """With an input size, a model takes images of this size only, and can still be quantized with images of others."""
    path = exported("openvino", compression, input_size=(72, 80))
    predict = OpenVINOInferencer(path, device="CPU", config=FP32).predict
    prediction = predict(some_images(4, (72, 80)))
    if compression is None:
        with torch.no_grad():
            check_equal(prediction, model(some_images(4, (72, 80))))
    with pytest.raises(RuntimeError):
        predict(some_images(1, (64, 64)))


@pytest.mark.slow
def test_tiles(folder, root, onnx_steps):
    """A model that cuts tiles is exported with all of them: batches of any size and images of any size in, maps out."""
    seed_everything(0)
    model = tiny_model(lr=1e-3, input_size=(64, 96), tile_size=48)
    tiny_engine(folder, max_epochs=25).fit(model, datamodule=tiny_data(root))
    quantized = {"compression_type": CompressionType.INT8_PTQ, "datamodule": tiny_data(root)}
    with onnx_steps():
        path = model.eval().to_onnx(folder / "tiles")
        int8_path = model.to_openvino(folder / "tiles", **quantized)
    session, compiled = onnxruntime.InferenceSession(path), openvino.compile_model(path, "CPU", FP32)
    names = [output.name for output in session.get_outputs()]
    for images in (some_images(4, (64, 96)), some_images(1, (200, 150))):
        with torch.no_grad():
            expected = model(images)
        assert expected.anomaly_map.shape[-2:] == (64, 96)
        found = dict(zip(names, session.run(names, {"input": images.numpy()}), strict=True))
        for runtime in (found, compiled(images.numpy())):
            check_equal(SimpleNamespace(**{name: runtime[name] for name in names}), expected)
    in_int8 = openvino.compile_model(int8_path, "CPU", FP32)
    error = np.abs(in_int8(images.numpy())["anomaly_map"] - expected.anomaly_map.numpy())
    assert error.mean() < 0.1 * np.ptp(expected.anomaly_map.numpy())


@pytest.mark.slow
def test_static_batch(model, folder, root, onnx_steps):
    """A model that takes three images at once is quantized with three at once."""
    quantized = {"compression_type": CompressionType.INT8_PTQ, "datamodule": tiny_data(root)}
    with onnx_steps():
        path = model.to_openvino(folder / "static", **quantized, ov_kwargs={"input": [3, 3, 64, 64]})
    compiled = openvino.compile_model(path, "CPU", FP32)
    assert compiled(some_images(3, (64, 64)).numpy())["pred_score"].shape == (3,)


@pytest.mark.slow
def test_command_line(folder, checkpoint, model):
    """``anomalib export`` writes the same model."""
    arguments = [f"--model.{name}={value}" for name, value in ARGUMENTS.items() if name in {"backbone", "pre_trained"}]
    command = [Path(sys.executable).parent / "anomalib", "export", "--model", "VQFlow", *arguments]
    command += ["--export_type", "onnx", "--ckpt_path", checkpoint, "--export_root", folder / "cli"]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    session = onnxruntime.InferenceSession(folder / "cli" / "weights" / "onnx" / "model.onnx")
    images = some_images(2, (100, 150))
    (score,) = session.run(["pred_score"], {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(score, model(images).pred_score, atol=TOLERANCE)
