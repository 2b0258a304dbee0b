# SPDX-License-Identifier: Apache-2.0
"""Exported resizing computes what torch does, in every runtime, and keeps no memory."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Resize

from anomalib_vqflow.export import AntialiasPreProcessor
from anomalib_vqflow.export.resize import KERNELS, ExportableResize, SizeError, resample
from tests.tiny import tiny_model

from .predictions import FP32

SIZES = [(64, 72), (100, 150), (37, 999), (1, 5), (63, 71), (20, 30)]


def images_of(size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def exact(images, size, interpolation=InterpolationMode.BILINEAR):
    return Resize(size, interpolation, antialias=True)(images.double()).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(64, 72), (7, 3), (1, 1)])
@pytest.mark.parametrize("name", list(KERNELS))
def test_resampling_equals_torch(name, target, size):
    """Shrinking, growing, or both, pixels are those of torch in double precision."""
    images = images_of(size)
    actual = resample(images, target, KERNELS[name])
    np.testing.assert_allclose(actual, exact(images, target, InterpolationMode(name)), atol=2e-6)


def export(path, resize, size=None):
    """Export nothing but a resize, of one size or of any."""
    batch, height, width = map(torch.export.Dim, ("batch", "height", "width"))
    shapes = {0: batch} if size else {0: batch, 2: height, 3: width}
    images, module = torch.zeros(2, 3, *(size or (32, 40))), nn.Sequential(ExportableResize(resize)).eval()
    torch.onnx.export(module, (images,), path, dynamo=True, dynamic_shapes=(shapes,), opset_version=18, verbose=False)
    return path


@pytest.fixture(scope="module")
def graph(folder):
    return export(folder / "resize.onnx", Resize((64, 72), antialias=True))


def in_onnx_runtime(path):
    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def in_openvino(path):
    compiled = openvino.Core().compile_model(path, "CPU", FP32)
    return lambda images: compiled(images)[0]


def converted(path):
    compiled = openvino.compile_model(openvino.convert_model(path), "CPU", FP32)
    return lambda images: compiled(images)[0]


@pytest.mark.parametrize("runtime", [in_onnx_runtime, in_openvino, converted])
def test_runtimes_agree(graph, runtime):
    """Each runtime that reads the ONNX file computes what torch does, whatever size comes after another."""
    infer = runtime(graph)
    for size in [*SIZES, (300, 400), SIZES[0]]:
        images = images_of(size)
        np.testing.assert_allclose(infer(images.numpy()), exact(images, (64, 72)), atol=1e-6)


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        (Resize((40, 36), antialias=True), (64, 72)),
        (Resize(40, antialias=True), (64, 72)),
        (Resize((40, 36), interpolation=3, antialias=True), (64, 72)),
        (Resize((40, 36), antialias=False), (64, 72)),
        (Resize(None, max_size=48, antialias=True), (64, 72)),
    ],
    ids=str,
)
def test_every_resize_of_one_size_is_exported(tmp_path, resize, size):
    """Whatever a transform does, an export for one size does it, too, read directly by OpenVINO."""
    images = images_of(size)
    actual = in_openvino(export(tmp_path / "resize.onnx", resize, size))(images.numpy())
    np.testing.assert_allclose(actual, resize(images), atol=1e-5)


def test_images_of_the_right_size_are_left_alone(tmp_path):
    """A model of one size, which is the right one, does nothing to its images."""
    path = export(tmp_path / "resize.onnx", Resize((64, 72), antialias=True), (64, 72))
    assert {node.op_type for node in onnx.load(path).graph.node} <= {"Identity"}


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (Compose([Resize(72, antialias=True), CenterCrop(64)]), r"Resize\(size=\[72\]"),
        (CenterCrop(64), r"CenterCrop\(size=\[64, 64\]"),
    ],
    ids=["short side", "crop"],
)
def test_what_depends_on_proportions_is_refused_for_any_size(tmp_path, transform, named):
    """torch would trace what the example needs, and the model would distort all other images."""
    model = tiny_model(pre_processor=AntialiasPreProcessor(transform))
    with pytest.raises(SizeError, match=f"{named}.*input_size"):
        model.to_onnx(tmp_path)
    assert not list(tmp_path.rglob("*.onnx*"))


GROWTH = """
import ctypes, sys
from pathlib import Path
import numpy as np
import openvino

def resident_memory():
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

path, side = sys.argv[1], int(sys.argv[2])
model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
sizes = [(side - 7 * (i % 10), side - i) for i in range(100)]
model(np.zeros((1, 3, *sizes[0]), np.float32))
before = resident_memory()
for size in sizes:
    model(np.zeros((1, 3, *size), np.float32))
print(resident_memory() - before)
"""


@pytest.mark.parametrize("side", [400, pytest.param(1600, marks=pytest.mark.slow)])
def test_memory_is_bounded(graph, side):
    """A hundred sizes leave less in memory than three did before, when OpenVINO antialiased: 13 MB each, and more.

    Held memory, not what the allocator keeps of freed images and of other tests: trimmed, in a process of its own.
    """
    command = [sys.executable, "-c", GROWTH, str(graph), str(side)]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 40
