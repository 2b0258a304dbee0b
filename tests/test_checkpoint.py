# SPDX-License-Identifier: Apache-2.0
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.models import Padim, get_model
from lightning.pytorch import Callback, seed_everything
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torchvision.transforms.v2 import ColorJitter, Compose, RandomHorizontalFlip

from anomalib_vqflow import VQFlow

from .tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model
from .training import loader

ROOT = Path(__file__).resolve().parents[1]


class InterruptionError(Exception):
    """Stands for whatever ends a training early."""


class Interrupt(Callback):
    """Interrupt the training in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise InterruptionError


def test_checkpoints_hold_plain_arguments_only(trained):
    """A checkpoint loads without running code, with anomalib's call and with torch's own restricted loader."""
    checkpoint = torch.load(trained[2], weights_only=True)

    assert checkpoint["hyper_parameters"]["flow_steps"] == [1, 1, 1]
    assert checkpoint["hyper_parameters"]["input_size"] == [64, 64]
    assert VQFlow.load_from_checkpoint(trained[2]).hparams["num_patterns"] == 8


@pytest.mark.parametrize("as_omegaconf", [False, True])
def test_a_model_built_from_a_config_has_a_loadable_checkpoint(root, tmp_path, as_omegaconf):
    """``get_model`` with lists, of Python or OmegaConf, gives a model whose checkpoint loads safely."""
    arguments = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "layers": [0, 1, 2, 3]}
    config = {"class_path": "VQFlow", "init_args": arguments}
    model = get_model(OmegaConf.create(config) if as_omegaconf else config)
    engine = tiny_engine(tmp_path)
    engine.fit(model, datamodule=tiny_data(root))

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)

    assert loaded.hparams["layers"] == [0, 1, 2, 3]
    assert loaded.input_size == (64, 64)


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [
        ("num_patterns", 6, 8),
        ("quantization", "independent", "residual"),
        ("affine_clamp", 1.0, 1.9),
        ("input_size", [96, 64], [64, 64]),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(root, trained, tmp_path, name, value, was):
    """The error names the argument with both values, even if all weights would fit."""
    words = rf"{name}={re.escape(f'{was!r} in the checkpoint, {value!r} in this model')}.*load_from_checkpoint"

    with pytest.raises(ValueError, match=words):
        VQFlow.load_from_checkpoint(trained[2], **{name: value})
    with pytest.raises(ValueError, match=words):
        tiny_engine(tmp_path).predict(tiny_model(**{name: value}), datamodule=tiny_data(root), ckpt_path=trained[2])


def test_training_and_scoring_arguments_may_differ_from_the_checkpoint(trained):
    """What does not change the meaning of the weights can be chosen anew when loading."""
    loaded = VQFlow.load_from_checkpoint(trained[2], lr=0.5, top_k_ratio=0.1)

    assert loaded.lr == 0.5
    assert loaded.model.anomaly_map_generator.top_k_ratio == 0.1


def test_a_checkpoint_of_another_model_is_refused(root, tmp_path):
    """A PaDiM checkpoint is named as what it is: not ours."""
    padim = Padim("resnet18", ["layer1"], pre_trained=False, n_features=8, evaluator=False, visualizer=False)
    engine = tiny_engine(tmp_path)
    engine.fit(padim, datamodule=tiny_data(root))

    with pytest.raises(ValueError, match="not made by VQFlow"):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=tiny_data(root), ckpt_path=engine.best_model_path)


def test_a_checkpoint_of_version_0_1_is_refused(root, trained, tmp_path):
    """Its weights have other names: the error says so instead of listing all of them, whoever loads it."""
    checkpoint = torch.load(trained[2], weights_only=True)
    del checkpoint["vqflow"]["format"]  # which version 0.1 did not write
    torch.save(checkpoint, tmp_path / "old.ckpt")

    words = "made by version 0.1 of anomalib-vqflow.*Train again"
    with pytest.raises(ValueError, match=words):
        VQFlow.load_from_checkpoint(tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=words):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=tiny_data(root), ckpt_path=tmp_path / "old.ckpt")


def test_missing_weights_are_accepted_if_not_strict(trained, tmp_path):
    """``strict=False`` means what it means in Lightning."""
    checkpoint = torch.load(trained[2], weights_only=True)
    del checkpoint["state_dict"]["model.flow.levels.0.module_list.0.global_offset"]
    torch.save(checkpoint, tmp_path / "part.ckpt")

    with pytest.raises(ValueError, match=r"(?s)same weights.*global_offset"):
        VQFlow.load_from_checkpoint(tmp_path / "part.ckpt")
    assert isinstance(VQFlow.load_from_checkpoint(tmp_path / "part.ckpt", strict=False), VQFlow)


def test_a_checkpoint_needs_no_weights_file(root, tmp_path):
    """The backbone's weights are part of the checkpoint: the file that they came from may be gone."""
    file = tmp_path / "weights.safetensors"
    state = tiny_model().model.features.body.state_dict()
    save_file({name: weight.contiguous() for name, weight in state.items()}, file)
    model = tiny_model(pre_trained=file)
    engine = tiny_engine(tmp_path)
    engine.fit(model, datamodule=tiny_data(root))
    file.unlink()

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)

    for name, weight in model.model.features.state_dict().items():
        assert torch.equal(loaded.model.features.state_dict()[name], weight), name


def train_for_resume(root, folder, *, epochs=4, interrupt=None, checkpoint=None, seed=0, **arguments):
    seed_everything(seed)
    model = tiny_model(lr=1e-2)
    callbacks = [] if interrupt is None else [Interrupt(interrupt)]
    engine = tiny_engine(folder, max_epochs=epochs, callbacks=callbacks, **arguments)
    augmentations = Compose([RandomHorizontalFlip(), ColorJitter(0.3)])
    try:
        engine.fit(model, datamodule=tiny_data(root, train_augmentations=augmentations), ckpt_path=checkpoint)
    except InterruptionError:
        assert interrupt is not None
    return model, engine


@pytest.mark.parametrize("arguments", [{}, {"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}])
def test_a_resumed_training_equals_an_uninterrupted_one(root, tmp_path, arguments):
    """Interrupted in the middle of an epoch and resumed under another seed, all weights and buffers are bit-equal."""
    whole, _ = train_for_resume(root, tmp_path / "whole", **arguments)
    _, engine = train_for_resume(root, tmp_path / "part", interrupt=2, **arguments)
    resumed, _ = train_for_resume(root, tmp_path / "rest", checkpoint=engine.best_model_path, seed=1, **arguments)

    state = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(state[name], value), name


def test_random_states_are_left_alone_unless_a_training_is_resumed(root, trained, tmp_path):
    """Predicting with a checkpoint does not reset the user's random generators: another seed stays another seed."""
    draws = []
    for seed in (7, 8):
        seed_everything(seed)
        VQFlow.load_from_checkpoint(trained[2])
        tiny_engine(tmp_path).predict(tiny_model(), datamodule=tiny_data(root), ckpt_path=trained[2])
        draws.append(torch.rand(4))

    assert not torch.equal(*draws)


KILLED = """
import sys
from tests.tiny import tiny_data, tiny_engine, tiny_model

root, folder = sys.argv[1:]
tiny_engine(folder, max_epochs=100000, limit_val_batches=0).fit(tiny_model(), datamodule=tiny_data(root))
"""


@pytest.mark.slow
def test_a_killed_training_leaves_a_good_checkpoint(root, tmp_path):
    """After SIGKILL at any moment, the last checkpoint loads, and the training resumes from it."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(root), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not (found := list(tmp_path.rglob("model.ckpt"))):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    epoch = torch.load(found[0], weights_only=True)["epoch"]
    engine = tiny_engine(tmp_path / "resumed", max_epochs=epoch + 2)
    engine.fit(tiny_model(), datamodule=tiny_data(root), ckpt_path=found[0])

    assert engine.trainer.current_epoch == epoch + 2


def test_a_checkpoint_from_the_command_line_loads_in_python(root, tmp_path):
    """``anomalib fit`` obeys ``--trainer.max_epochs``, and its checkpoint loads with the class's own call."""
    model = [f"--model.{name}={value}" for name, value in ARGUMENTS.items() if name != "flow_steps"]
    trainer = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "enable_progress_bar": "false"}
    AnomalibCLI(
        [
            *("fit", "--model", "VQFlow", *model, "--model.flow_steps=[1, 1, 1]", "--model.input_size=64"),
            *("--data", "MultiCategory", f"--data.root={root}", "--data.num_workers=0"),
            *(f"--trainer.{name}={value}" for name, value in trainer.items()),
            f"--default_root_dir={tmp_path}",
        ]
    )

    (path,) = tmp_path.rglob("model.ckpt")
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert VQFlow.load_from_checkpoint(path).input_size == (64, 64)


def test_a_broken_model_is_not_saved(tmp_path):
    """NaN weights, from a gradient that overflowed in the last step, don't overwrite the last good checkpoint."""

    class Break(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.current_epoch == 1:
                next(p for p in pl_module.model.parameters() if p.requires_grad).data.fill_(torch.nan)

    engine = tiny_engine(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Break()])
    with pytest.raises(ValueError, match="Not saving a broken model"):
        engine.fit(tiny_model(evaluator=False), train_dataloaders=loader(4, 4))

    assert torch.load(engine.best_model_path, weights_only=True)["epoch"] == 0
