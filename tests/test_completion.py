# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from anomalib.metrics import AUROC
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from anomalib_vqflow import CategoryEvaluator, VQFlow

from .tiny import tiny_data, tiny_engine, tiny_model

STEPS_PER_EPOCH = 2


class AtStep(Callback):
    """Do something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act(trainer)


class CountValidations(Callback):
    def __init__(self):
        self.steps = []

    def on_validation_start(self, trainer, _):
        self.steps.append(trainer.global_step)


def stop(trainer):
    trainer.should_stop = True


def interrupt(_):
    raise KeyboardInterrupt


def fail(_):
    msg = "no power"
    raise RuntimeError(msg)


def train(root, folder, callbacks=(), model=None, data=None, **arguments):
    count = CountValidations()
    model = model or tiny_model(lr=1e-2)
    engine = tiny_engine(folder, callbacks=[*callbacks, count], **arguments)
    engine.train(model, datamodule=tiny_data(root, **(data or {})))
    return model, engine, count.steps


@pytest.mark.parametrize(
    ("arguments", "last_step"),
    [
        ({"max_epochs": 3}, 6),
        ({"max_epochs": 3, "check_val_every_n_epoch": 20}, 6),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 6),
        ({"max_epochs": -1, "max_steps": 3}, 3),
        ({"max_epochs": 3, "callbacks": [AtStep(3, stop)]}, 3),
        ({"max_epochs": -1, "max_time": {"seconds": 1}}, None),
        ({"max_epochs": 3, "val_check_interval": 0.5}, 6),
    ],
)
def test_however_a_training_ends_its_last_step_is_complete(root, tmp_path, arguments, last_step):
    """What is saved and tested are the last weights, with the calibration and the thresholds that fit them."""
    model, engine, validations = train(root, tmp_path, **arguments)

    checkpoint = torch.load(engine.best_model_path, weights_only=True)
    assert checkpoint["global_step"] == engine.trainer.fit_loop.epoch_loop.global_step
    assert last_step is None or checkpoint["global_step"] == last_step
    assert validations[-1] == checkpoint["global_step"]
    assert not model.post_processor.image_threshold.isnan()
    assert model.evaluator.results["image_F1Score"].notna().any()
    again = tiny_engine(tmp_path / "again")
    again.validate(fresh := VQFlow.load_from_checkpoint(engine.best_model_path), datamodule=tiny_data(root))
    assert torch.allclose(fresh.post_processor.image_threshold, model.post_processor.image_threshold)


@pytest.mark.parametrize("arguments", [{"max_steps": 0}, {"max_epochs": 0}, {"limit_train_batches": 0}])
def test_a_training_without_a_step_is_told(root, tmp_path, arguments):
    """Where the length leaves nothing to train, a warning says so, as there is no checkpoint."""
    with pytest.warns(UserWarning, match="before its first step: .*no checkpoint was saved.*max_steps"):
        _, engine, _ = train(root, tmp_path, **arguments)
    assert not engine.best_model_path


def test_validation_runs_once_unless_someone_looks_at_it(root, tmp_path):
    """A schedule, a metric of validation, and a checkpoint that is chosen bring it back."""
    assert train(root, tmp_path, max_epochs=3)[2] == [6]
    assert train(root, tmp_path, max_epochs=3, check_val_every_n_epoch=2)[2] == [4, 6]
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    model = tiny_model(evaluator=CategoryEvaluator(val_metrics=[metric]))
    assert train(root, tmp_path, max_epochs=3, model=model)[2] == [2, 4, 6]
    chosen = ModelCheckpoint(tmp_path / "chosen", monitor="train_loss")
    assert train(root, tmp_path, max_epochs=3, callbacks=[chosen])[2] == [2, 4, 6]


def test_early_stopping_on_the_training_loss(root, tmp_path):
    """It is consulted every epoch, and the training that it ends is complete."""
    stopping = EarlyStopping("train_loss", patience=1, min_delta=1e9)
    _, engine, validations = train(root, tmp_path, callbacks=[stopping], max_epochs=50)

    assert engine.trainer.fit_loop.epoch_loop.global_step == 2 * STEPS_PER_EPOCH
    assert validations == [2 * STEPS_PER_EPOCH]


def test_early_stopping_on_a_metric_of_validation(root, tmp_path):
    """The evaluator's metrics for validation can be monitored."""
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    stopping = EarlyStopping("image_AUROC", mode="max", patience=1, min_delta=1.0)
    model = tiny_model(evaluator=CategoryEvaluator(val_metrics=[metric]))
    _, engine, validations = train(root, tmp_path, callbacks=[stopping], model=model, max_epochs=50)

    assert validations == [2, 4]
    assert engine.trainer.fit_loop.epoch_loop.global_step == 2 * STEPS_PER_EPOCH


def test_an_interrupted_training_is_complete_and_says_so(root, tmp_path):
    """Ctrl-C in the middle of an epoch: the checkpoint holds the last step, with thresholds, and resumes."""
    with (
        pytest.raises(SystemExit),
        pytest.warns(UserWarning, match=r"epoch 2, step 3\. .*model.ckpt holds .*step 3, calibrated;"),
    ):
        train(root, tmp_path, max_epochs=4, callbacks=[AtStep(3, interrupt)])

    (path,) = tmp_path.rglob("model.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert VQFlow.load_from_checkpoint(path)(torch.rand(1, 3, 64, 64)).pred_label is not None
    engine = tiny_engine(tmp_path / "resumed", max_epochs=4)
    engine.fit(tiny_model(lr=1e-2), datamodule=tiny_data(root), ckpt_path=path)
    assert engine.trainer.current_epoch == 4


def test_a_training_that_failed_says_what_its_checkpoint_holds(root, tmp_path):
    """It is that of the last epoch; loading it tells that it has no thresholds, and it gives no labels."""
    with (
        pytest.raises(RuntimeError, match="no power"),
        pytest.warns(
            UserWarning,
            match=r"epoch 2, step 3\. .*model.ckpt holds .*step 2, perhaps without calibration and thresholds;",
        ),
    ):
        train(root, tmp_path, max_epochs=4, callbacks=[AtStep(3, fail)])

    (path,) = tmp_path.rglob("model.ckpt")
    with pytest.warns(UserWarning, match=r"within a training, in epoch 1.*Resume"):
        loaded = VQFlow.load_from_checkpoint(path)
    assert loaded(torch.rand(1, 3, 64, 64)).pred_label is None


def test_a_training_that_failed_at_once_says_that_nothing_was_saved(root, tmp_path):
    """There is no checkpoint to go on from."""
    with pytest.raises(RuntimeError, match="no power"), pytest.warns(UserWarning, match="No checkpoint was saved"):
        train(root, tmp_path, max_epochs=4, callbacks=[AtStep(1, fail)])


def test_thresholds_of_earlier_weights_are_not_kept(root, trained, tmp_path):
    """A training that goes on and fails leaves a checkpoint without thresholds, not with those of its start."""
    engine = tiny_engine(tmp_path, max_epochs=4, callbacks=[AtStep(5, fail)])
    with pytest.raises(RuntimeError, match="no power"):
        engine.fit(tiny_model(), datamodule=tiny_data(root), ckpt_path=trained[2])

    (path,) = tmp_path.rglob("model.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state["post_processor._image_threshold"].isnan()
    assert not state["model.anomaly_map_generator.calibration.fitted"]
