# SPDX-License-Identifier: Apache-2.0
"""Exported models predict what the Lightning model predicts."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import openvino.opset13 as ops
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.metrics import F1Score
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import seed_everything
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from anomalib_vqflow import VQFlow
from anomalib_vqflow.discrete import ConditionedConv2d
from anomalib_vqflow.export import (
    AntialiasPreProcessor,
    FreshMetric,
    calibration_size,
    look_up_extension,
    resize_extension,
)
from anomalib_vqflow.precision import (
    BACKBONE,
    NUM_PRECISE_LAYERS,
    PRECISE_ROOMS,
    WHITENING,
    precise_operators,
    round_for_products_only,
)
from anomalib_vqflow.quantization import Codebook

from .data.folders import make_category
from .tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model

FP32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO computes in bfloat16 by default on CPUs that can
TOLERANCE = 1e-4  # of the range of the map
SIZES = [(64, 64), (100, 150), (40, 48)]  # nominal, shrinking, growing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(autouse=True)
def _anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)  # OpenVINOInferencer writes its cache into the working directory
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # TorchInferencer unpickles


@pytest.fixture(scope="module")
def root(folder):
    """Two categories of different image sizes, one without masks."""
    make_category(folder / "data", "bolt", size=(150, 100))
    make_category(folder / "data", "nut", size=(40, 48), masks=False)
    return folder / "data"


@pytest.fixture(scope="module")
def checkpoint(folder, root):
    """A model after 50 steps: its flows are no identity, its statistics and thresholds are set."""
    seed_everything(0)
    engine = tiny_engine(folder, max_epochs=25, check_val_every_n_epoch=25)
    engine.fit(tiny_model(lr=1e-3), datamodule=tiny_data(root))
    return engine.best_model_path


@pytest.fixture(scope="module")
def model(checkpoint):
    return VQFlow.load_from_checkpoint(checkpoint, map_location="cpu").eval()


@pytest.fixture(scope="module")
def exported(folder, root, checkpoint):
    """Export from the checkpoint, each kind once."""

    @cache
    def export(kind, compression=None, **arguments):
        return tiny_engine(folder).export(
            tiny_model(),
            ExportType(kind),
            folder / "-".join(map(str, (kind, compression, *arguments.values()))),
            compression_type=compression and CompressionType(compression),
            datamodule=tiny_data(root),
            ckpt_path=checkpoint,
            **arguments,
        )

    return export


@pytest.fixture(scope="module")
def predictor(exported):
    """Load an exported model as its users do, each once."""

    @cache
    def load(kind, *arguments):
        path = exported(kind, *arguments)
        if kind == "torch":
            return TorchInferencer(path, device="cpu").predict
        if kind == "openvino":
            return OpenVINOInferencer(path, device="CPU", config=FP32).predict
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]

        def predict(images):
            values = session.run(None, {"input": images.numpy()})
            outputs = dict(zip(names, map(torch.from_numpy, values), strict=True))
            outputs.pop("concept")
            return ImageBatch(image=images, **outputs)

        return predict

    return load


def some_images(batch, size):
    """Draw images of shape ``(B, 3, *size)`` in [0, 1]: noise as in training, with ever more structure."""
    generator = torch.Generator().manual_seed(batch * 1000 + size[0])
    noise = (60 + 40 * torch.rand(batch, 3, *size, generator=generator)) / 255
    coarse = Resize(size)(torch.rand(batch, 3, 4, 4, generator=generator))
    return torch.lerp(noise, coarse, torch.linspace(0.2, 0.6, batch)[:, None, None, None])


def check_equal(actual, expected):
    """Compare predictions; a label may only differ where its score is on the threshold."""
    names = ("anomaly_map", "pred_score", "pred_label")
    as_array = {name: torch.as_tensor(getattr(actual, name)).detach().numpy() for name in names}
    anomaly_map = expected.anomaly_map.numpy()
    tolerance = TOLERANCE * np.ptp(anomaly_map)
    assert tolerance > 0
    np.testing.assert_allclose(as_array["anomaly_map"].reshape(anomaly_map.shape), anomaly_map, atol=tolerance, rtol=0)
    np.testing.assert_allclose(as_array["pred_score"].reshape(-1), expected.pred_score, atol=tolerance, rtol=0)
    clear = np.abs(expected.pred_score.numpy() - 0.5) > tolerance
    assert clear.any()
    np.testing.assert_array_equal(as_array["pred_label"].reshape(-1)[clear], expected.pred_label.numpy()[clear])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_predictions_equal_lightning(model, predictor, kind, batch, size):
    """An export without an input size takes any batch and image size, and predicts what the Lightning model does."""
    images = some_images(batch, size)
    with torch.no_grad():
        expected = model(images)
    check_equal(predictor(kind)(images), expected)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
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


def test_antialiasing_matters(model, predictor):
    """Without antialiasing in the export, as anomalib has it, the test above would fail by far."""
    images = some_images(4, (100, 150))
    plain = PreProcessor(model.pre_processor.transform)
    with torch.no_grad():
        without = model.post_processor(model.model(plain(images))).anomaly_map
    anomaly_map = predictor("torch")(images).anomaly_map.detach().reshape(without.shape)
    assert (anomaly_map - without).abs().max() > 100 * TOLERANCE * (without.max() - without.min())


def test_pre_processor_exports_antialiasing_only_where_asked_for():
    """Each ``Resize`` exports as it is, and everything else as anomalib exports it, also after loading."""
    transform = Compose([Resize((80, 80), antialias=True), CenterCrop(72), Resize((64, 64), antialias=False)])
    pre_processor = AntialiasPreProcessor()
    assert pre_processor.export_transform is None
    pre_processor.load_checkpoint_config(AntialiasPreProcessor(transform).checkpoint_config())
    for made in (AntialiasPreProcessor(transform), pre_processor):
        first, crop, second = made.export_transform.transforms
        assert (first.antialias, second.antialias) == (True, False)
        assert type(crop).__name__ == "ExportableCenterCrop"


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
    sums = [axes[node.input[1]] for node in graph.node if node.op_type == "ReduceSum"]
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


def test_outputs(exported):
    """The model says what anomalib's inferencers expect, for any batch size."""
    outputs = openvino.Core().read_model(exported("openvino")).outputs
    assert {output.any_name for output in outputs} == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    assert all(output.partial_shape[0].is_dynamic for output in outputs)


def test_concepts_can_be_read(model, exported):
    """Each format tells the concept of each image: ONNX and torch at once, OpenVINO on demand."""
    images = some_images(4, (100, 150))
    with torch.no_grad():
        expected = model(images).concept
    assert len(expected.unique()) > 1

    session = onnxruntime.InferenceSession(exported("onnx"))
    np.testing.assert_array_equal(session.run(["concept"], {"input": images.numpy()})[0], expected)
    assert torch.equal(TorchInferencer(exported("torch"), device="cpu").model(images).concept, expected)
    inferred = openvino.Core().read_model(exported("openvino"))
    inferred.add_outputs("concept")
    np.testing.assert_array_equal(openvino.compile_model(inferred, "CPU", FP32)(images.numpy())["concept"], expected)


def weight_types(path):
    """Tell the room and the weights' type of each convolution and matrix product."""
    found = []
    for operator in openvino.Core().read_model(path).get_ordered_ops():
        if operator.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}:
            source = operator.input_value(1).get_node()
            while source.get_type_name() in {"Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract"}:
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                found.append((operator.get_friendly_name(), source.get_element_type().to_string()))
    return found


@pytest.fixture(scope="module")
def compressed(folder, root):
    """Export untrained models to eight bits, each once."""

    @cache
    def export(compression, noise):
        model = tiny_model(use_whitening=noise is not None, **({} if noise is None else {"whitening_noise": noise}))
        path = folder / f"eight-{compression}-{noise}"
        return model.to_openvino(path, compression_type=CompressionType(compression), datamodule=tiny_data(root))

    return export


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["int8", "int8_ptq"])
@pytest.mark.parametrize(("noise", "eight_bits"), [(0.15, True), (0.05, False), (None, False)])
def test_eight_bits_are_where_they_do_no_harm(compressed, compression, noise, eight_bits):
    """In the subnets always, in the backbone after its start if training had enough noise, in other rooms never."""
    found = weight_types(compressed(compression, noise))
    backbone = [kind for name, kind in found if name.startswith(BACKBONE)]
    num_precise = NUM_PRECISE_LAYERS if eight_bits else len(backbone)
    assert set(backbone[:num_precise]) == {"f32"}
    assert set(backbone[num_precise:]) <= {"i8", "u8"}
    rest = [kind for name, kind in found if not name.startswith((BACKBONE, *PRECISE_ROOMS))]
    assert set(rest) <= {"i8", "u8"}
    assert len(rest) == 2 * 3 + 10  # of the levels and of the fusion
    assert sum(name.startswith(WHITENING) for name, _ in found) == (0 if noise is None else 3)
    assert {kind for name, kind in found if name.startswith(PRECISE_ROOMS)} == {"f32"}


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.15, None])
def test_only_products_read_rounded_values(compressed, noise):
    """Sums, norms and the latents themselves are exact."""
    readers = {
        reader.get_node().get_type_name()
        for operator in openvino.Core().read_model(compressed("int8_ptq", noise)).get_ops()
        if operator.get_type_name() == "FakeQuantize"
        and operator.input_value(0).get_node().get_type_name() != "Constant"
        for reader in operator.output(0).get_target_inputs()
    }
    assert "Convolution" in readers
    assert not readers & {"Add", "Multiply", "Subtract", "ReduceMean", "Power"}


def test_rounding_for_products_only():
    """What a convolution and a sum read is rounded for the convolution; moving values between makes no difference."""
    image, limits = ops.parameter([1, 3, 4, 4], np.float32), [np.float32(limit) for limit in (-1, 1, -1, 1)]
    rounded = ops.fake_quantize(image, *limits, levels=256)
    kernel = ops.fake_quantize(ops.constant(np.ones((3, 3, 1, 1), np.float32)), *limits, levels=255)
    halved = ops.multiply(kernel, np.float32(0.5))  # weights stay rounded for all
    order = ops.constant(np.array([0, 1, 3, 2]))
    moved, moved_for_both = ops.transpose(rounded, order), ops.transpose(rounded, order)
    product = ops.convolution(rounded, halved, [1, 1], [0, 0], [0, 0], [1, 1])
    other = ops.convolution(moved, halved, [1, 1], [0, 0], [0, 0], [1, 1])
    another = ops.convolution(moved_for_both, halved, [1, 1], [0, 0], [0, 0], [1, 1])
    total = ops.add(product, rounded)
    outputs = [total, other, another, ops.relu(moved_for_both)]
    model = openvino.Model(outputs, [image])
    round_for_products_only(model)

    sources = {node: node.input_value(0).get_node() for node in (product, moved, moved_for_both, halved)}
    assert total.input_value(1).get_node() == image
    assert sources == {product: rounded, moved: rounded, moved_for_both: image, halved: kernel}
    again = another.input_value(0).get_node()
    assert again.get_type_name() == "FakeQuantize"
    assert again.input_value(0).get_node() == moved_for_both
    assert again.input_values()[1:] == rounded.input_values()[1:]


def test_operators_without_rooms_are_refused():
    """Rooms that cannot be found must not be compressed in silence."""
    model = openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="names were lost"):
        precise_operators(model, precise_backbone=False)


def test_operator_set(monkeypatch, tmp_path):
    """ONNX is written in the exporter's own operator set, unless the user asks for another."""
    asked = []
    monkeypatch.setattr(torch.onnx, "export", lambda **arguments: asked.append(arguments["opset_version"]))
    tiny_model().to_onnx(tmp_path)
    tiny_model().to_onnx(tmp_path, opset_version=20)
    assert asked == [18, 20]


def resize_graph(path, by_size, **attributes):
    """Write an ONNX model that does nothing but ``Resize``, to 10 × 7 or to 1.5 times the size."""
    target = helper.make_tensor("sizes", TensorProto.INT64, [4], [2, 3, 10, 7])
    inputs = ["input", "", "", "sizes"]
    if not by_size:
        target = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 1.5, 1.5])
        inputs = ["input", "", "scales"]
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, None, None]) for n in ("input", "output")]
    node = helper.make_node("Resize", inputs, ["output"], **attributes)
    graph = helper.make_graph([node], "resize", shapes[:1], shapes[1:], [target])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def resized(path, images, **arguments):
    compiled = openvino.compile_model(openvino.convert_model(path, **arguments), "CPU", FP32)
    return compiled(images.numpy())[0]


@pytest.mark.parametrize(
    ("by_size", "attributes"),
    [
        (True, {"mode": "linear"}),
        (True, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        (False, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        (False, {"mode": "cubic", "cubic_coeff_a": -0.5}),
        (True, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        (False, {}),
    ],
    ids=str,
)
def test_other_resizes_convert_as_before(tmp_path, by_size, attributes):
    """The extension changes nothing where no antialiasing is asked for."""
    resize_graph(tmp_path / "model.onnx", by_size, **attributes)
    images = some_images(2, (12, 9))
    native = resized(tmp_path / "model.onnx", images)
    np.testing.assert_array_equal(resized(tmp_path / "model.onnx", images, extension=resize_extension()), native)


@pytest.mark.parametrize(("mode", "interpolation"), [("linear", 2), ("cubic", 3)])
def test_openvino_antialiases_as_torch(tmp_path, mode, interpolation):
    """With the extension, OpenVINO shrinks images exactly as torch does."""
    resize_graph(tmp_path / "model.onnx", by_size=True, mode=mode, antialias=1)
    images = some_images(2, (33, 40))
    expected = Resize((10, 7), interpolation, antialias=True)(images)
    actual = resized(tmp_path / "model.onnx", images, extension=resize_extension())
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def look_up_graph(path, *, by="GatherND", keepdims=0, axes=(1,), rank=2):
    """Write an ONNX model that gathers rows of a table and sums some of them up."""
    table = np.random.default_rng(0).normal(size=(7, 5, 3)[-rank:]).astype(np.float32)
    shape = [None, 4, 1] if by == "GatherND" else [None, 4]
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, shape)
    nodes = [
        helper.make_node(by, ["table", "rows"], ["gathered"]),
        helper.make_node("ReduceSum", ["gathered", "axes"], ["output"], keepdims=keepdims),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(axes), "axes")]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "look_up", [rows], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return np.random.default_rng(1).integers(0, table.shape[0], (6, *shape[1:]))


@pytest.mark.parametrize(
    ("options", "bags"),
    [
        ({}, 1),
        ({"keepdims": 1}, 0),
        ({"axes": (2,)}, 0),
        ({"axes": (0, 1)}, 0),
        ({"by": "Gather"}, 0),
        ({"rank": 3}, 0),
    ],
    ids=str,
)
def test_sums_of_table_rows_become_bags(tmp_path, options, bags):
    """Rows of a table are added up as they are read; every other sum converts as before. The numbers stay."""
    rows = look_up_graph(tmp_path / "model.onnx", **options)
    native = openvino.convert_model(tmp_path / "model.onnx")
    ours = openvino.convert_model(tmp_path / "model.onnx", extension=look_up_extension())
    expected, actual = (openvino.compile_model(model, "CPU", FP32)(rows)[0] for model in (native, ours))

    assert [op.get_type_name() for op in ours.get_ops()].count("EmbeddingBagPackedSum") == bags
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_exported_models_look_the_condition_up(model, exported):
    """Every subnet's convolution holds a table, where that is smaller than its kernel."""
    convolutions = [part for part in model.model.modules() if isinstance(part, ConditionedConv2d)]
    graph = onnx.load(exported("onnx")).graph
    kernels = {tuple(tensor.dims) for tensor in graph.initializer}
    operations = [op.get_type_name() for op in openvino.Core().read_model(exported("openvino")).get_ops()]

    assert operations.count("EmbeddingBagPackedSum") == len(convolutions) == 5
    assert not kernels & {tuple(conv.weight.shape) for conv in convolutions}


def test_fresh_metric_forgets():
    """A candidate model is judged by its own predictions, not by those of the models before it."""
    truth, images = torch.tensor([True, False]), torch.zeros(2, 3, 4, 4)
    metric = FreshMetric(F1Score(fields=["pred_label", "gt_label"]))
    values = []
    for prediction in (truth, ~truth, truth):
        metric.update(ImageBatch(image=images, gt_label=truth, pred_label=prediction))
        values.append(metric.compute())
    assert values == [1, 0, 1]


def test_calibration_images_have_one_size(root):
    """Images of different sizes calibrate together, at the size that the export takes, and the trainer comes back."""
    datamodule = tiny_data(root)
    with calibration_size(datamodule, (24, 32)):
        datamodule.setup("fit")
        assert {batch.image.shape[2:] for batch in datamodule.val_dataloader()} == {(24, 32)}
    assert datamodule.trainer is None


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
