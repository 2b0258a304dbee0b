# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from anomalib_vqflow.schedule import DEFAULT_EPOCHS, WarmupSchedule

from .tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model
from .training import Recorder, fit, loader


class StopAtOnce(Callback):
    """Stop after the first batch, and remember how long the training should have been."""

    def on_train_batch_end(self, trainer, *_):
        self.max_epochs = trainer.max_epochs
        trainer.should_stop = True


def test_more_epochs_on_resume_keep_the_warm_up(root, tmp_path):
    """Raising ``max_epochs`` goes on at the learning rate that was reached, without a second warm-up."""
    arguments = {"lr": 1e-2, "warmup_ratio": 0.5}
    short, recorder = tiny_engine(tmp_path / "short", max_epochs=2), Recorder()
    short.fit(tiny_model(**arguments), datamodule=tiny_data(root))
    long = tiny_engine(tmp_path / "long", max_epochs=60, callbacks=[recorder, StopAtOnce()])
    long.fit(tiny_model(**arguments), datamodule=tiny_data(root), ckpt_path=short.best_model_path)

    assert recorder.lrs == [1e-2]


class SaveEpochs(Callback):
    """Save a checkpoint after each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch + 1}.ckpt")


def falling(folder, count, checkpoint=None, lr=0.01, **arguments):
    """Train with a falling learning rate, or resume; two images a step. Learning rates after each step."""
    recorder = Recorder()
    model = tiny_model(lr=lr, lr_schedule="cosine", warmup_ratio=0.25, evaluator=False)
    engine = tiny_engine(folder, limit_val_batches=0, callbacks=[recorder, SaveEpochs(folder)], **arguments)
    engine.fit(model, train_dataloaders=loader(count, 2), ckpt_path=checkpoint)
    return recorder.lrs


def lrs(schedule, first, last):
    return pytest.approx([0.01 * schedule(step) for step in range(first, last + 1)])


def test_a_training_that_had_ended_warms_up_again_and_falls_to_zero(tmp_path):
    """Here with more images, too, as with new products; without this, it would go on and learn nothing."""
    falling(tmp_path / "first", 4, max_epochs=4)
    found = falling(tmp_path / "second", 8, tmp_path / "first" / "4.ckpt", max_epochs=6)

    assert found == lrs(WarmupSchedule(warmup_steps=2, total_steps=8), 1, 8)
    assert found[-1] == pytest.approx(0)


@pytest.mark.parametrize(("length", "total_steps"), [({"max_epochs": 8}, 16), ({"max_steps": 13}, 13)])
def test_a_training_that_is_resumed_with_another_length_falls_to_zero_at_its_end(tmp_path, length, total_steps):
    """The warm-up is over, and the fall is stretched."""
    falling(tmp_path / "first", 4, max_epochs=4)
    found = falling(tmp_path / "second", 4, tmp_path / "first" / "3.ckpt", **{"max_epochs": -1, **length})

    assert found == lrs(WarmupSchedule(warmup_steps=2, total_steps=total_steps), 7, total_steps)


@pytest.mark.parametrize("factor", [1, 0.1])
def test_a_training_is_resumed_with_the_learning_rate_of_the_model(tmp_path, factor):
    """Which may be smaller than that of the checkpoint, as the error about a broken loss advises."""
    whole = falling(tmp_path / "first", 4, max_epochs=4)
    found = falling(tmp_path / "second", 4, tmp_path / "first" / "2.ckpt", lr=0.01 * factor, max_epochs=4)

    assert found == pytest.approx([lr * factor for lr in whole[4:]], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("first", [3, 4])
def test_another_length_is_taken_once(tmp_path, first):
    """A second interruption leaves the learning rates of what is left as they were to be."""
    falling(tmp_path / "first", 4, max_epochs=4)
    whole = falling(tmp_path / "whole", 4, tmp_path / "first" / f"{first}.ckpt", max_epochs=8)
    found = falling(tmp_path / "part", 4, tmp_path / "whole" / "6.ckpt", max_epochs=8)

    assert found == whole[-4:]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_epochs": None}, DEFAULT_EPOCHS),
        ({"max_epochs": 1000}, 1000),
        ({"max_epochs": 7}, 7),
        ({"max_epochs": -1}, -1),
        ({"max_epochs": None, "max_steps": 5}, -1),
        ({"max_epochs": None, "max_time": "00:00:10:00"}, -1),
    ],
)
def test_the_user_decides_how_long_to_train(tmp_path, caplog, arguments, expected):
    """Only without any limit are 60 epochs trained, with a warning; 1,000 is obeyed if the user says so."""
    stop = StopAtOnce()
    with caplog.at_level(logging.WARNING, "anomalib_vqflow"):
        fit(tmp_path, loader(4, 2), callbacks=[stop], **arguments)

    assert stop.max_epochs == expected
    assert ("max_epochs was not set" in caplog.text) == (expected == DEFAULT_EPOCHS)


@pytest.mark.parametrize("max_epochs", [None, 1000, 3])
def test_the_config_decides_how_long_to_train(root, tmp_path, max_epochs):
    """The same holds for ``max_epochs`` in a YAML file."""
    config = {
        "model": {"class_path": "VQFlow", "init_args": {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": 64}},
        "data": {"class_path": "MultiCategory", "init_args": {"root": str(root), "num_workers": 0}},
        "trainer": {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "enable_progress_bar": False},
        "default_root_dir": str(tmp_path),
    }
    if max_epochs is not None:
        config["trainer"]["max_epochs"] = max_epochs
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")

    engine, model, datamodule = Engine.from_config(tmp_path / "config.yaml")
    stop = StopAtOnce()
    engine._cache.args["callbacks"].append(stop)
    engine.fit(model, datamodule=datamodule)

    assert stop.max_epochs == (max_epochs or DEFAULT_EPOCHS)


def test_half_precision_weights_are_refused(tmp_path):
    """bf16-true would freeze the running means of the codebooks, so the error names what to use instead."""
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit(tmp_path, loader(4, 2), precision="bf16-true")


@pytest.mark.parametrize(
    ("arguments", "largest"),
    [({}, 2.0), ({"gradient_clip_val": 0.5}, 0.5), ({"gradient_clip_val": 0}, torch.inf)],
)
def test_gradients_are_clipped_at_two_unless_the_user_says_otherwise(tmp_path, arguments, largest):
    """The norm of the gradients is the default, or the user's, or unbounded."""
    recorder = Recorder()
    fit(tmp_path, loader(4, 2), callbacks=[recorder], **arguments)

    if largest == torch.inf:
        assert min(recorder.norms) > 2.5
    else:
        assert recorder.norms == pytest.approx([largest] * 2, rel=1e-3)


@pytest.mark.parametrize(("arguments", "expected"), [({}, 0), ({"num_sanity_val_steps": 1}, 1)])
def test_validation_is_tried_first_only_if_the_user_asks(root, tmp_path, arguments, expected):
    """There are no sanity steps by default, and as many as the user wants."""
    tried = []

    class Watch(Callback):
        def on_validation_batch_end(self, trainer, *_):
            tried.append(trainer.sanity_checking)

    tiny_engine(tmp_path, callbacks=[Watch()], **arguments).fit(tiny_model(), datamodule=tiny_data(root))

    assert tried.count(True) == expected


def test_the_learning_rate_warms_up_linearly(tmp_path):
    """Half of eight steps rise by a quarter each, the other half stays."""
    recorder = Recorder()
    fit(tmp_path, loader(4, 2), max_epochs=4, callbacks=[recorder], model={"lr": 0.004, "warmup_ratio": 0.5})

    # Recorded after each step, when the scheduler has moved on.
    assert recorder.lrs == pytest.approx([0.002, 0.003, 0.004, 0.004, 0.004, 0.004, 0.004, 0.004])


def test_an_unlimited_training_warms_up_as_in_sixty_epochs(tmp_path):
    """Without an end, the warm-up is its share of 60 epochs."""
    _, engine = fit(tmp_path, loader(4, 2), max_epochs=-1, callbacks=[StopAtOnce()])

    warmup = engine.trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0]
    assert isinstance(warmup, WarmupSchedule)
    assert warmup.warmup_steps == 20


def test_a_cosine_schedule_ends_at_zero(tmp_path):
    """The learning rate rises over the warm-up and has all but vanished at the last step."""
    _, engine = fit(tmp_path, loader(8, 2), max_epochs=3, model={"lr_schedule": "cosine", "warmup_ratio": 0.25})

    scheduler = engine.trainer.lr_scheduler_configs[0].scheduler
    factors = [scheduler.lr_lambdas[0](step) for step in range(12)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert scheduler.get_last_lr()[0] < 1e-9
