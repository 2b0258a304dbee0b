# SPDX-License-Identifier: Apache-2.0
"""A trained model and its exports, each made once for all tests of exports."""

from functools import cache

import onnxruntime
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from tests.data.folders import make_category
from tests.tiny import tiny_data, tiny_engine, tiny_model

from .predictions import FP32


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(autouse=True)
def _anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)  # OpenVINOInferencer writes its cache into the working directory
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # TorchInferencer unpickles


@pytest.fixture(scope="package")
def root(folder):
    """Two categories of different image sizes, one without masks."""
    make_category(folder / "data", "bolt", size=(150, 100))
    make_category(folder / "data", "nut", size=(40, 48), masks=False)
    return folder / "data"


@pytest.fixture(scope="package")
def checkpoint(folder, root):
    """A model after 50 steps: its flows are no identity, its statistics and thresholds are set."""
    seed_everything(0)
    engine = tiny_engine(folder, max_epochs=25)
    engine.fit(tiny_model(lr=1e-3), datamodule=tiny_data(root))
    return engine.best_model_path


@pytest.fixture(scope="package")
def model(checkpoint):
    return VQFlow.load_from_checkpoint(checkpoint, map_location="cpu").eval()


@pytest.fixture(scope="package")
def exported(folder, root, checkpoint, onnx_steps):
    """Export from the checkpoint, each kind once."""

    @cache
    def export(kind, compression=None, **arguments):
        with onnx_steps():
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


@pytest.fixture(scope="package")
def predictor(exported):
    """Load an exported model as its users do, each once."""

    @cache
    def load(kind, *arguments):
        path = exported("onnx" if kind == "onnx in openvino" else kind, *arguments)
        if kind == "torch":
            return TorchInferencer(path, device="cpu").predict
        if kind.endswith("openvino"):
            return OpenVINOInferencer(path, device="CPU", config=FP32).predict
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]

        def predict(images):
            values = session.run(None, {"input": images.numpy()})
            outputs = dict(zip(names, map(torch.from_numpy, values), strict=True))
            return ImageBatch(image=images, **outputs)

        return predict

    return load
