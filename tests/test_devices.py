# SPDX-License-Identifier: Apache-2.0
"""Tables and plain convolutions compute the same on every device, in every precision; what a GPU trains is exported.

Without a GPU, everything runs on the CPU but for what is marked ``gpu``.
"""

from contextlib import nullcontext

import numpy as np
import openvino
import pytest
import torch
from anomalib.deploy import CompressionType
from lightning.pytorch import seed_everything
from torch import nn

from anomalib_vqflow import FeatureCache, VQFlow
from anomalib_vqflow.condition import convolution
from benchmarks.models import dense_conditions, randomize_

from .export.predictions import FP32, some_images
from .tiny import tiny_data, tiny_engine, tiny_model, tiny_root

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
)
TOLERANCES = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 5e-2}  # of the largest entry


@pytest.fixture
def tables(monkeypatch):
    """Take tables wherever the condition is discrete, on any device, and tell how often."""
    taken = []
    look_up = convolution.ConditionedConv2d._look_up
    monkeypatch.setattr(convolution, "TABLE_DEVICES", {"cpu", "cuda"})
    monkeypatch.setattr(convolution, "saves_work", lambda *_: True)
    monkeypatch.setattr(convolution.ConditionedConv2d, "_look_up", lambda *given: taken.append(1) or look_up(*given))
    return taken


@pytest.fixture
def precise():
    """Whatever a test allows, products are exact again after it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def computing(device, precision):
    """Compute in a precision."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def random_model(device):
    seed_everything(0)
    model = tiny_model(use_whitening=True, whitening_noise=0.0)
    randomize_(model)
    return model.to(device)


def worst(actual, expected):
    """The largest difference, over the largest entry."""
    assert all(value.isfinite().all() for value in actual)
    pairs = [(one.float(), other.float()) for one, other in zip(actual, expected, strict=True)]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-6)) for one, other in pairs)


def check_scores(tables, device, precision, batch, run=nn.Module.__call__):
    """Compare scores and maps by table, where ``run`` computes them, with those of the plain form."""
    model = random_model(device).eval().model
    features = model.see(torch.rand(batch, 3, 64, 64, device=device))
    images = torch.zeros(batch, 3, 64, 64, device=device)
    with computing(device, precision), torch.no_grad():
        with dense_conditions(model):
            expected = model(images, features)
        assert not tables
        found = run(model, images, features)
    assert tables
    names = ("pred_score", "anomaly_map")
    error = worst([getattr(found, name) for name in names], [getattr(expected, name) for name in names])
    assert error < TOLERANCES[precision]


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_scores_by_table_are_those_of_the_plain_form(tables, precise, device, precision, batch):
    """In inference, for one image and many."""
    check_scores(tables, device, precision, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "precision", "backend"),
    [("cpu", "float32", "eager"), *(pytest.param("cuda", name, "inductor", marks=CUDA.marks) for name in TOLERANCES)],
)
def test_a_compiled_model_scores_alike(tables, precise, device, precision, backend):
    """On the CPU as it is captured, for the compiler takes minutes."""
    check_scores(tables, device, precision, 32, lambda model, *given: torch.compile(model, backend=backend)(*given))


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_gradients_by_table_are_those_of_the_plain_form(tables, precise, device, precision):
    """Of the first step of a training, all together."""
    images = torch.rand(8, 3, 64, 64, device=device)
    gradients = []
    for form in (dense_conditions, lambda _: nullcontext()):
        model = random_model(device).train()
        assert not tables
        torch.manual_seed(0)
        with computing(device, precision), form(model.model):
            output = model.model(images)
        model.loss(output.latents, output.log_dets, output.commitment).total.backward()
        found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        gradients.append([torch.cat(found)])
    assert tables
    assert worst(*reversed(gradients)) < TOLERANCES[precision]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "precision"), [("cpu", "bf16-mixed"), pytest.param("cuda", "16-mixed", marks=CUDA.marks)]
)
def test_what_was_trained_in_mixed_precision_is_exported(tmp_path, onnx_steps, device, precision):
    """With cached maps; the checkpoint scores on the CPU as the model does, and maps of exports are like its own."""
    seed_everything(0)
    data = tiny_data(tiny_root(tmp_path / "products"))
    accelerator = "gpu" if device == "cuda" else device
    engine = tiny_engine(
        tmp_path, accelerator=accelerator, precision=precision, max_epochs=10, callbacks=[FeatureCache()]
    )
    engine.fit(tiny_model(use_whitening=True, lr=1e-3), datamodule=data)
    trained = engine.model.eval().to(device)
    loaded = VQFlow.load_from_checkpoint(engine.best_model_path, map_location="cpu")
    images = some_images(8, (64, 64))
    with torch.no_grad():
        scores, expected = trained(images.to(device)).pred_score.cpu(), loaded(images)
    assert worst([scores], [expected.pred_score]) < 1e-3

    anomaly_map = expected.anomaly_map.numpy()
    for kind, tolerance in ((CompressionType.FP16, 0.01), (CompressionType.INT8_PTQ, 0.1)):
        with onnx_steps():
            path = loaded.to_openvino(tmp_path / kind.value, compression_type=kind, datamodule=data)
        found = openvino.Core().compile_model(path, "CPU", FP32)(images.numpy())["anomaly_map"]
        assert np.abs(found - anomaly_map).mean() < tolerance * np.ptp(anomaly_map)
