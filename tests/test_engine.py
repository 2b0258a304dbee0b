# SPDX-License-Identifier: Apache-2.0
"""The checks that anomalib makes of each of its models, in its tests/integration/model/test_models.py.

These are versions of our own, of a small configuration. ``tests/tools/anomalib_suite.py`` runs anomalib's.
"""

import pytest
from anomalib.data import MVTecAD
from anomalib.deploy import ExportType
from anomalib.models import get_model, list_models

from .data.folders import make_category
from .tiny import ARGUMENTS, tiny_engine

SUFFIX = {ExportType.TORCH: ".pt", ExportType.ONNX: ".onnx", ExportType.OPENVINO: ".xml"}
(NAME,) = {"vqflow", "v_q_flow"} & list_models()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def objects(project):
    """Make model, datamodule and engine anew, as a user with a checkpoint in a new process would."""
    make_category(project / "mvtecad", "dummy")

    def make():
        model = get_model(NAME, **ARGUMENTS, input_size=(64, 64))
        data = MVTecAD(root=project / "mvtecad", category="dummy", train_batch_size=2, num_workers=0)
        return model, data, tiny_engine(project)

    return make


@pytest.fixture(scope="module")
def checkpoint(objects, project):
    """Fit, and find the checkpoint where anomalib's tools look for it."""
    model, data, engine = objects()
    engine.fit(model=model, datamodule=data)
    path = project / model.name / data.name / "dummy" / "v0" / "weights" / "lightning" / "model.ckpt"
    assert path.is_file()
    return path


def check_metrics(results):
    assert results
    assert all("image_AUROC" in metrics for metrics in results)


def test_test(objects, checkpoint):
    """A checkpoint can be tested."""
    model, data, engine = objects()
    check_metrics(engine.test(model=model, datamodule=data, ckpt_path=checkpoint))


def test_train(objects, checkpoint):
    """``Engine.train`` from a checkpoint fits on and tests."""
    model, data, engine = objects()
    check_metrics(engine.train(model=model, datamodule=data, ckpt_path=checkpoint))


def test_train_from_scratch(objects):
    """``Engine.train`` without a checkpoint fits and tests."""
    model, data, engine = objects()
    check_metrics(engine.train(model=model, datamodule=data))


def test_validate(objects, checkpoint):
    """A checkpoint can be validated; that fits the threshold, and reports no metrics by default, as in anomalib."""
    model, data, engine = objects()
    assert engine.validate(model=model, datamodule=data, ckpt_path=checkpoint) == [{}]
    assert model.post_processor.image_threshold.isfinite()


def test_predict(objects, checkpoint):
    """A checkpoint predicts every test image."""
    model, data, engine = objects()
    batches = engine.predict(model=model, datamodule=data, ckpt_path=checkpoint)
    assert sum(len(batch.image_path) for batch in batches) == len(data.test_data)
    assert all(batch.anomaly_map.shape[-2:] == (64, 64) for batch in batches)


def test_predict_after_fit(objects):
    """Right after ``fit``, ``predict`` needs no checkpoint."""
    model, data, engine = objects()
    engine.fit(model=model, datamodule=data)
    batches = engine.predict(model=model, datamodule=data)
    assert sum(len(batch.image_path) for batch in batches) == len(data.test_data)


@pytest.mark.parametrize(
    "export_type",
    [
        ExportType.TORCH,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (ExportType.ONNX, ExportType.OPENVINO)),
    ],
)
def test_export(objects, checkpoint, onnx_steps, export_type):
    """A checkpoint exports to every type that anomalib knows."""
    model, _, engine = objects()
    with onnx_steps():
        path = engine.export(model=model, ckpt_path=checkpoint, export_type=export_type)
    assert path.suffix == SUFFIX[export_type]
    assert path.is_file()
    assert set(SUFFIX) == set(ExportType)
