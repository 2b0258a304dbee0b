# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from anomalib_vqflow import VQFlow

from .tiny import tiny_engine, tiny_model
from .training import fit, loader

ROOT = Path(__file__).resolve().parents[1]


def test_a_last_batch_of_one_image_is_left_out(tmp_path):
    """Five images in batches of two train in two steps per epoch, with one warning in all epochs."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((len(batch.image_path), outputs is None or not outputs))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = fit(tmp_path, loader(5, 2), max_epochs=2, callbacks=[Watch()])

    assert seen == [(2, False), (2, False), (1, True)] * 2
    assert len([w for w in caught if "single image" in str(w.message)]) == 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_batch_that_is_left_out_changes_no_weight(tmp_path):
    """Neither weights nor codebooks nor batch statistics move in a step that is left out."""
    states = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            states.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    fit(tmp_path, loader(5, 2), callbacks=[Watch()])

    assert len(states) == 3
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])


DISTRIBUTED = """
import sys
from tests.test_lightning_model import loader
from tests.tiny import tiny_engine, tiny_model

model = tiny_model(evaluator=False)
engine = tiny_engine(sys.argv[1], max_epochs=2, devices=2, strategy="ddp", limit_val_batches=0)
engine.fit(model, train_dataloaders=loader(6, 2))
weights = [parameter.double().sum().item() for parameter in model.parameters()]
with open(f"{sys.argv[1]}/{engine.trainer.global_rank}.txt", "w") as file:
    file.write(f"{engine.trainer.global_step} {len(model.post_processor.normal_scores)} {weights}")
"""


@pytest.mark.slow
def test_a_last_batch_of_one_image_does_not_break_distributed_training(tmp_path):
    """Two processes with three images each, in batches of two, stay in step and end with equal, finite weights.

    Without validation, all six images set the thresholds, each once.
    """
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)

    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("4 6 ")
    assert "nan" not in first


@pytest.mark.parametrize(("count", "batch_size"), [(4, 1), (1, 2)])
def test_training_on_single_images_is_refused_at_once(tmp_path, count, batch_size):
    """A batch size of one, and a dataset of one image, are refused at the first batch."""
    with pytest.raises(ValueError, match=r"train_batch_size to 2 or more"):
        fit(tmp_path, loader(count, batch_size))


def test_a_broken_training_image_is_named(tmp_path):
    """NaN pixels stop the training with the name of the file, before a weight has changed."""
    model = tiny_model(evaluator=False)
    before = {name: value.clone() for name, value in model.model.named_parameters()}

    with pytest.raises(ValueError, match=r"NaN or infinite pixels: image_1.png\."):
        tiny_engine(tmp_path).fit(model, train_dataloaders=loader(4, 4, broken=[1]))

    assert all(torch.equal(value, before[name]) for name, value in model.model.named_parameters())


def test_a_broken_loss_stops_the_training_and_loses_no_checkpoint(tmp_path):
    """A loss that is not finite in the second epoch leaves the checkpoint of the first, and says how to go on."""

    class Break(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.loss.commitment_weight = float("inf")

    engine = tiny_engine(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Break()])
    model = tiny_model(evaluator=False)
    with pytest.raises(ValueError, match=r"loss became inf in epoch 1.*last checkpoint is good.*smaller lr"):
        engine.fit(model, train_dataloaders=loader(4, 2))

    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert torch.load(engine.best_model_path, weights_only=True)["epoch"] == 0
    assert isinstance(VQFlow.load_from_checkpoint(engine.best_model_path), VQFlow)


def test_a_broken_image_is_anomalous_and_named(trained, tmp_path):
    """NaN pixels in prediction give the highest score, the label anomalous and a warning; others are unharmed."""
    model, _, path = trained
    sound = tiny_engine(tmp_path).predict(model, dataloaders=loader(3, 3), ckpt_path=path)[0]
    with pytest.warns(UserWarning, match=r"NaN or infinite pixels score as anomalous: image_1.png\."):
        (batch,) = tiny_engine(tmp_path).predict(model, dataloaders=loader(3, 3, broken=[1]), ckpt_path=path)

    assert batch.pred_score[1] == 1
    assert batch.pred_label[1]
    assert batch.pred_mask[1].all()
    assert torch.equal(batch.pred_score[[0, 2]], sound.pred_score[[0, 2]])
