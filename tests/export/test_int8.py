# SPDX-License-Identifier: Apache-2.0
"""INT8 is where it does no harm."""

from functools import cache

import numpy as np
import openvino
import openvino.opset13 as ops
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from lightning.pytorch import seed_everything

from anomalib_vqflow.export.int8 import (
    FP32_FLOW_STEPS,
    FP32_MODULES,
    NUM_FP32_BACKBONE_LAYERS,
    evaluate,
    ignored_scope,
    quantize_with_accuracy_control,
    supports_int8_backbone,
)
from anomalib_vqflow.export.module_paths import is_in_module, paths_of
from anomalib_vqflow.features import FeaturePyramid
from anomalib_vqflow.flows import Whitening
from tests.tiny import tiny_data, tiny_model


def weight_types(path):
    """Tell the name and the weights' type of each convolution and matrix product."""
    found = []
    for operator in openvino.Core().read_model(path).get_ordered_ops():
        if operator.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}:
            source = operator.input_value(1).get_node()
            while source.get_type_name() in {"Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract"}:
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                found.append((operator.get_friendly_name(), source.get_element_type().to_string()))
    return found


def whitening_model(noise):
    return tiny_model(use_whitening=noise is not None, **({} if noise is None else {"whitening_noise": noise}))


@pytest.fixture(scope="module")
def compressed(folder, root, onnx_steps):
    """Export untrained models in INT8, each once."""

    @cache
    def export(compression, noise):
        path = folder / f"{compression}-{noise}"
        arguments = {"compression_type": CompressionType(compression), "datamodule": tiny_data(root)}
        seed_everything(0)
        with onnx_steps():
            return whitening_model(noise).to_openvino(path, **arguments)

    return export


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["int8", "int8_ptq"])
@pytest.mark.parametrize(("noise", "int8_backbone"), [(0.15, True), (0.05, False), (None, False)])
def test_int8_is_where_it_does_no_harm(compressed, compression, noise, int8_backbone):
    """In the subnets always, in the backbone after its start if training had enough noise, in other modules never."""
    found, model = weight_types(compressed(compression, noise)), whitening_model(noise)
    (backbone,) = paths_of(model, (FeaturePyramid,))
    fp32 = paths_of(model, FP32_MODULES + FP32_FLOW_STEPS)

    in_backbone = [kind for name, kind in found if is_in_module(name, [backbone])]
    num_fp32 = NUM_FP32_BACKBONE_LAYERS if int8_backbone else len(in_backbone)
    assert len(in_backbone) > NUM_FP32_BACKBONE_LAYERS
    assert set(in_backbone[:num_fp32]) == {"f32"}
    assert set(in_backbone[num_fp32:]) <= {"i8", "u8"}

    whitenings = [kind for name, kind in found if is_in_module(name, paths_of(model, (Whitening,)))]
    assert whitenings == ["f32"] * (0 if noise is None else 3)
    assert {kind for name, kind in found if is_in_module(name, fp32)} == {"f32"}

    rest = [kind for name, kind in found if not is_in_module(name, [backbone, *fp32])]
    assert set(rest) <= {"i8", "u8"}
    assert len(rest) == 2 * 3 + 10  # of the levels and of the fusion


def test_added_products_keep_the_backbone_in_fp32():
    """They were learned without noise."""
    model = whitening_model(0.15).model
    assert supports_int8_backbone(model)
    model.added.append_()
    assert not supports_int8_backbone(model)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.15, None])
def test_sums_and_norms_read_exact_values(compressed, noise):
    """Only what computes in INT8 reads quantized values; sums, norms and the latents themselves are exact."""
    readers = {
        reader.get_node().get_type_name()
        for operator in openvino.Core().read_model(compressed("int8_ptq", noise)).get_ops()
        if operator.get_type_name() == "FakeQuantize"
        and operator.input_value(0).get_node().get_type_name() != "Constant"
        for reader in operator.output(0).get_target_inputs()
    }
    assert "Convolution" in readers
    assert not readers & {"Add", "Multiply", "Subtract", "ReduceMean", "Power"}


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["int8", "int8_ptq"])
def test_without_thresholds_it_runs(compressed, compression):
    """A model that was never validated normalizes nothing, and has no range that could be written as NaN."""
    found = openvino.Core().compile_model(compressed(compression, None), "CPU")(np.zeros((1, 3, 64, 64), np.float32))
    assert all(np.isfinite(values).all() for values in found.values())
    assert {output.get_any_name() for output in found} >= {"pred_score", "anomaly_map"}


def test_only_layers_of_flow_steps_are_named(model, exported):
    """With the sums and products of the Gaussian among them, NNCF would quantize what every subnet reads otherwise."""
    inferred = openvino.Core().read_model(exported("openvino"))
    kinds = {operator.get_friendly_name(): operator.get_type_name() for operator in inferred.get_ops()}
    steps = paths_of(model, FP32_FLOW_STEPS)
    assert {kinds[name] for name in ignored_scope(inferred, model).names if is_in_module(name, steps)} == {"MatMul"}


def test_lost_names_are_refused():
    """Modules that cannot be found must not be compressed in silence."""
    model = openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="names were lost"):
        ignored_scope(model, tiny_model())


def brightness_model(*, inverted):
    """A model that takes bright images for anomalous, or dark ones."""
    image = ops.parameter([-1, 3, 4, 4], np.float32)
    brightness = ops.reduce_mean(image, np.array([1, 2, 3]))
    label = (ops.less if inverted else ops.greater)(brightness, np.float32(0.5))
    label.output(0).set_names({"pred_label"})
    return openvino.compile_model(openvino.Model([label], [image]), "CPU")


def test_a_model_is_evaluated_by_its_own_predictions():
    """Each candidate starts anew, although one metric judges them all, and with the predictions of all batches."""
    truth = torch.tensor([True, False])
    images = truth[:, None, None, None].expand(2, 3, 4, 4).float()
    batches = [ImageBatch(image=images, gt_label=truth) for _ in range(2)]
    metric = F1Score(fields=["pred_label", "gt_label"])
    models = [brightness_model(inverted=inverted) for inverted in (False, True, False)]
    assert [evaluate(model, batches, metric) for model in models] == [1, 0, 1]


@pytest.mark.parametrize("max_drop", [-0.1, 1.5])
def test_drops_out_of_range_are_refused(max_drop):
    """A drop in percent, for example, would accept anything."""
    with pytest.raises(ValueError, match="max_drop must be between 0 and 1"):
        quantize_with_accuracy_control(None, None, None, None, None, max_drop)
