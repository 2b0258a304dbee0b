# SPDX-License-Identifier: Apache-2.0
"""What anomalib's Studio does with a model works with this one.

The application is no package; its steps are repeated here as its ``training_service.py``, ``model_service.py`` and
``inference.py`` take them (August 2026), with anomalib's own classes.
"""

import cv2
import numpy as np
import openvino
import openvino.properties.hint as hints
import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import ValSplitMode
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator, F1Score
from anomalib.models import get_model, list_models
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger

from .data.folders import make_image
from .tiny import ARGUMENTS

NAME = "v_q_flow"
SMALL = {**ARGUMENTS, "input_size": (64, 64)}  # Studio gives the name and the evaluator only
TOLERANCE = 1e-4


class Progress(Callback):
    """What Studio shows, and how it stops a training that a user cancels."""

    def __init__(self, cancel_after=None):
        self.shown, self.cancel_after = [], cancel_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self.shown.append((trainer.state.stage.value, epochs / trainer.max_epochs))

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == self.cancel_after


def train(folder, progress, max_epochs=3):
    """Train on a folder of normal images, as Studio's ``_train_model``."""
    seed_everything(0)
    for index in range(12):
        make_image(folder / "normal" / f"{index:03}.jpg", 60, (80, 72))
    datamodule = Folder(
        name="project-v_q_flow",
        normal_dir=str(folder / "normal"),
        val_split_mode=ValSplitMode.SYNTHETIC,
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
    )
    evaluator = Evaluator(
        val_metrics=[AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)],
        test_metrics=[
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
            AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
            F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
        ],
    )
    model = get_model(model=NAME, evaluator=evaluator, **SMALL)
    stopping = EarlyStopping(monitor="pixel_AUROC", mode="max", patience=5)
    engine = Engine(
        default_root_dir=folder / "model",
        logger=[CSVLogger(folder / "logs")],
        devices=1,
        max_epochs=max_epochs,
        callbacks=[progress, stopping],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    engine.fit(model=model, datamodule=datamodule)
    return engine, model, stopping


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder, progress = tmp_path_factory.mktemp("studio"), Progress()
    return folder, *train(folder, progress), progress


def test_studio_finds_the_model():
    """The identifier of an entry must be in the list of models, and opens the model."""
    assert NAME in list_models(case="snake")


def test_training_shows_progress_and_watches_pixels(project):
    """Each epoch is validated, because early stopping monitors the pixels' AUROC, and the bar comes to its end."""
    _, engine, _, stopping, progress = project
    assert 0 < stopping.best_score <= 1
    assert stopping.best_score >= engine.trainer.callback_metrics["pixel_AUROC"]
    assert {stage for stage, _ in progress.shown} == {"train"}
    assert [share for _, share in progress.shown] == sorted(share for _, share in progress.shown)
    assert progress.shown[-1][1] == pytest.approx(1)


def test_the_threshold_is_found(project):
    """Studio keeps the first that a callback has, which must be in [0, 1]."""
    _, engine, *_ = project
    found = [getattr(callback, "normalized_pixel_threshold", None) for callback in engine.trainer.callbacks]
    (threshold,) = [value.item() for value in found if value]
    assert 0 <= threshold <= 1


@pytest.mark.slow
def test_frames_are_scored(project, monkeypatch):
    """A frame of any size gets a map, a label and a score in [0, 1]: those of the model, for the order of its colors.

    Studio decodes frames to BGR and hands them on as they are, whereas the model was trained on RGB.
    """
    folder, engine, model, *_ = project
    monkeypatch.chdir(folder)
    path = engine.export(model=model, export_type=ExportType.OPENVINO, export_root=folder / "model")
    model.eval()
    assert path == folder / "model" / "weights" / "openvino" / "model.xml"
    settings = {hints.performance_mode: hints.PerformanceMode.LATENCY, hints.inference_precision: openvino.Type.f32}
    inferencer = OpenVINOInferencer(path=path, device="CPU", config=settings)
    for size in ((64, 64), (90, 120)):
        frame = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
        encoded = cv2.imencode(".jpg", frame)[1].tobytes()
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), -1)
        found = inferencer.predict(decoded)
        with torch.no_grad():
            expected = model(torch.from_numpy(decoded.transpose(2, 0, 1)[None] / np.float32(255)))
        assert found.pred_score.item() == pytest.approx(expected.pred_score.item(), abs=TOLERANCE)
        assert 0 <= found.pred_score.item() <= 1
        assert found.pred_label.item() in {True, False}
        levels = (found.anomaly_map.squeeze() * 255).astype(np.uint8)
        assert cv2.applyColorMap(levels, cv2.COLORMAP_JET).shape == (*levels.shape, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, *CompressionType], ids=str)
@pytest.mark.filterwarnings("ignore:.*validation images")
def test_other_exports_are_made_from_the_checkpoint(project, onnx_steps, kind):
    """In a new model of that name, without arguments but those of the test, and with images of a plain ``Folder``."""
    folder, engine, *_ = project
    datamodule = Folder(name="export-datamodule", normal_dir=folder / "normal", num_workers=0)
    datamodule.setup()
    arguments = {"compression_type": kind, "datamodule": datamodule}
    if kind == CompressionType.INT8_ACQ:
        with pytest.raises(ValueError, match="none is anomalous"):
            export(engine, folder, arguments)
    else:
        with onnx_steps():
            assert export(engine, folder, arguments).is_file()


def export(engine, folder, arguments):
    path = str(engine.best_model_path)
    options = {"export_type": ExportType.OPENVINO, "export_root": folder / "export", "ckpt_path": path}
    return Engine(default_root_dir=folder).export(model=get_model(NAME, **SMALL), **options, **arguments)


def test_a_canceled_training_ends(tmp_path):
    """At the end of an epoch, before the last one."""
    progress = Progress(cancel_after=0)
    engine, *_ = train(tmp_path, progress)
    assert engine.trainer.current_epoch == 1
