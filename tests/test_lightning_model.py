# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data.utils import read_image
from anomalib.post_processing import PostProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer, seed_everything
from omegaconf import OmegaConf

from anomalib_vqflow import CategoryEvaluator, VQFlow

from .tiny import tiny_data, tiny_engine, tiny_model
from .training import Recorder, fit, loader

ROOT = Path(__file__).resolve().parents[1]


def scores(predictions):
    return torch.cat([batch.pred_score for batch in predictions])


def test_every_verb_of_the_engine_runs(root, trained, tmp_path):
    """Train, fit, validate, test and predict work on the same model, with scores and maps in [0, 1]."""
    model, engine, path = trained

    engine.fit(model, datamodule=tiny_data(root))
    engine.validate(model, datamodule=tiny_data(root))
    (results,) = engine.test(model, datamodule=tiny_data(root), ckpt_path=path)
    predictions = engine.predict(model, datamodule=tiny_data(root), ckpt_path=path)

    assert {"image_AUROC", "pixel_AUROC"} <= results.keys()
    assert sum(len(batch.image_path) for batch in predictions) == 8
    for batch in predictions:
        assert batch.anomaly_map.shape[-2:] == (64, 64)
        assert ((batch.anomaly_map >= 0) & (batch.anomaly_map <= 1)).all()
        assert ((batch.pred_score >= 0) & (batch.pred_score <= 1)).all()
        assert batch.pred_label.dtype == torch.bool
        model.eval()
        images = torch.stack(
            [model.pre_processor.transform(read_image(path, as_tensor=True)) for path in batch.image_path]
        )
        assert torch.equal(batch.concept, model.model.concept(model.model.features(images).semantic).indices)


PREDICT = """
import json, sys
from anomalib.engine import Engine
from anomalib.models import VQFlow
from tests.tiny import tiny_data, tiny_engine, tiny_model

root, folder, path = sys.argv[1:]
raw = {}
for name, model in (("loaded", VQFlow.load_from_checkpoint(path)), ("restored", tiny_model())):
    ckpt_path = path if name == "restored" else None
    predictions = tiny_engine(folder).predict(model, datamodule=tiny_data(root), ckpt_path=ckpt_path)
    raw[name] = [score.hex() for batch in predictions for score in batch.pred_score.tolist()]
print("SCORES", json.dumps(raw))
"""


@pytest.mark.slow
def test_a_new_process_predicts_the_same_scores(root, trained, tmp_path):
    """A checkpoint gives bit-equal scores in a new process, loaded by the class and restored by the engine."""
    model, engine, path = trained
    expected = scores(engine.predict(model, datamodule=tiny_data(root), ckpt_path=path)).tolist()

    command = [sys.executable, "-W", "ignore", "-c", PREDICT, str(root), str(tmp_path), path]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout

    (line,) = [line for line in output.splitlines() if line.startswith("SCORES")]
    predicted = json.loads(line.removeprefix("SCORES"))
    assert predicted["loaded"] == predicted["restored"] == [score.hex() for score in expected]


def test_the_loss_and_its_parts_are_logged(tmp_path):
    """The logged loss is per latent dimension: its negative log-likelihood plus its share of the commitment."""
    recorder = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, loader(6, 3), callbacks=[recorder], model={"tail_weight": 0.0})

    logged = recorder.logged[-1]
    assert {f"pattern_perplexity/{level}" for level in range(4)} <= logged.keys()
    assert {f"pattern_usage/{level}" for level in range(4)} <= logged.keys()
    num_dims = 64 * 8 * 8 + 96 * 4 * 4 + 128 * 2 * 2
    share = logged["train_commitment"] / num_dims
    assert logged["train_loss_step"] == pytest.approx(logged["train_nll"] + share, rel=1e-4)
    assert 1 <= logged["concept_perplexity"] <= 4
    assert 0 < logged["concept_usage"] <= 1
    assert logged["train_log_det"] != 0
    assert not [str(warning.message) for warning in caught if "batch_size" in str(warning.message)]


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed", "64"])
def test_the_loss_falls_in_every_precision(tmp_path, precision):
    """Training in full, mixed and double precision lowers the loss and never breaks it (16-mixed is bf16 on a CPU)."""
    seed_everything(0)
    recorder = Recorder()
    model, _ = fit(
        tmp_path,
        loader(8, 4),
        max_epochs=8,
        precision=precision,
        callbacks=[recorder],
        model={"lr": 3e-3, "warmup_ratio": 0.0},
    )

    losses = torch.tensor([logged["train_loss_step"] for logged in recorder.logged])
    assert losses.isfinite().all()
    assert losses[-2:].mean() < losses[:2].mean() - 0.1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_frozen_backbone_is_not_optimized(tmp_path):
    """The optimizer holds every trainable parameter, and none of the backbone."""
    model, engine = fit(tmp_path, loader(4, 2))

    held = {id(parameter) for group in engine.trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert not held & {id(parameter) for parameter in model.model.features.parameters()}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("size", [96, (96, 64), [96, 64], OmegaConf.create([96, 64])])
def test_the_input_size_takes_a_number_or_any_pair(size):
    """One number is a square; lists, tuples and OmegaConf lists are the same."""
    model = tiny_model(input_size=size)

    assert model.input_size == ((96, 96) if size == 96 else (96, 64))
    assert type(model.hparams["input_size"]) is list


@pytest.mark.parametrize("size", [(64,), (64, 64, 3), 0, (64, -1), (64.5, 64), "64"])
def test_other_input_sizes_are_refused(size):
    """Whatever is not one or two positive whole numbers is an error that shows the form."""
    with pytest.raises(ValueError, match=r"height and width in pixels, such as \[256, 256\]"):
        tiny_model(input_size=size)


@pytest.mark.parametrize(("name", "value"), [("lr", 0.0), ("lr", -1.0), ("warmup_ratio", 1.5), ("warmup_ratio", -0.1)])
def test_the_schedule_is_checked_at_the_door(name, value):
    """A learning rate or warm-up outside its range is refused by the constructor."""
    with pytest.raises(ValueError, match=name):
        tiny_model(**{name: value})


def test_forward_keeps_no_gradients():
    """anomalib's TorchInferencer leaves gradients on; nothing is to be learned from a prediction."""
    prediction = tiny_model().eval()(torch.rand(2, 3, 64, 64))

    assert not prediction.pred_score.requires_grad
    assert prediction._asdict().keys() == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    assert prediction.concept.shape == (2,)


def test_components_default_to_anomalibs_and_ours():
    """Evaluation is per category, everything else is anomalib's default."""
    model = tiny_model(visualizer=True)

    assert isinstance(model.evaluator, CategoryEvaluator)
    assert isinstance(model.post_processor, PostProcessor)
    assert isinstance(model.visualizer, ImageVisualizer)
    assert model.learning_type is LearningType.ONE_CLASS
    assert model.trainer_arguments == {}
    assert VQFlow.configure_pre_processor((96, 64)).transform(torch.rand(1, 3, 10, 10)).shape == (1, 3, 96, 64)
    assert VQFlow.configure_pre_processor().transform(torch.rand(1, 3, 10, 10)).shape == (1, 3, 256, 256)


def test_components_can_be_switched_off(tmp_path):
    """A model without evaluator, visualizer, pre- and post-processor trains and comes back without them."""
    names = ("evaluator", "visualizer", "pre_processor", "post_processor")
    model = tiny_model(**dict.fromkeys(names, False))
    engine = tiny_engine(tmp_path)
    engine.fit(model, train_dataloaders=loader(4, 2))

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)

    for name in names:
        assert getattr(model, name) is None
        assert getattr(loaded, name) is None


def test_a_given_pre_processor_decides_the_size():
    """``input_size`` gives way to the size that the pre-processor makes."""
    model = tiny_model(pre_processor=VQFlow.configure_pre_processor((96, 128)))

    assert model.input_size == (96, 128)
    assert model.model.features.detail_shapes[0] == (64, 12, 16)


def test_plain_lightning_trains_the_model(root, tmp_path):
    """anomalib's engine is a convenience: Lightning's trainer alone fits the model."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(tiny_model(), datamodule=tiny_data(root))

    assert trainer.global_step == 2
