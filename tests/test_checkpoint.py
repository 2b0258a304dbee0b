# SPDX-License-Identifier: Apache-2.0
import inspect
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
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, seed_everything
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torchvision.transforms.v2 import ColorJitter, Compose, Lambda, RandomHorizontalFlip, Resize

from anomalib_vqflow import VQFlow
from anomalib_vqflow.checkpoint import MAY_CHANGE

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
    arguments = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "layers": [1, 2, 3]}
    config = {"class_path": "VQFlow", "init_args": arguments}
    model = get_model(OmegaConf.create(config) if as_omegaconf else config)
    engine = tiny_engine(tmp_path)
    engine.fit(model, datamodule=tiny_data(root))

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)

    assert loaded.hparams["layers"] == [1, 2, 3]
    assert loaded.input_size == (64, 64)


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [
        ("num_patterns", 6, 8),
        ("quantization", "independent", "residual"),
        ("affine_clamp", 1.0, 1.9),
        ("input_size", [96, 64], [64, 64]),
        ("score_map", "additive", "likelihood"),
        ("top_k_ratio", 0.1, 0.03),
        ("whitening_noise", 0.0, 0.15),
        ("use_fusion", False, True),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(root, trained, tmp_path, name, value, was):
    """The error names the argument with both values, even if all weights would fit."""
    words = rf"{name}={re.escape(f'{was!r} in the checkpoint, {value!r} in this model')}.*load_from_checkpoint"

    with pytest.raises(ValueError, match=words):
        VQFlow.load_from_checkpoint(trained[2], **{name: value})
    with pytest.raises(ValueError, match=words):
        tiny_engine(tmp_path).predict(tiny_model(**{name: value}), datamodule=tiny_data(root), ckpt_path=trained[2])


def test_arguments_that_only_say_how_to_train_may_differ_from_the_checkpoint(trained):
    """They can be chosen anew when loading, and the model predicts the same."""
    loaded = VQFlow.load_from_checkpoint(
        trained[2],
        lr=0.5,
        warmup_ratio=0.5,
        lr_schedule="cosine",
        commitment_weight=2.0,
        tail_weight=0.5,
        concept_novelty=1.0,
    )
    image = torch.rand(1, 3, 64, 64)

    assert loaded.lr == 0.5
    for found, expected in zip(loaded(image), VQFlow.load_from_checkpoint(trained[2])(image), strict=True):
        assert torch.equal(found, expected)


def test_every_argument_is_known_to_keep_or_to_change_what_a_checkpoint_means():
    """A new argument is refused at loading until someone has decided: the names that may change are existing ones."""
    assert set(inspect.signature(VQFlow).parameters) > MAY_CHANGE


def test_a_loaded_model_predicts(trained):
    """One image or two, without a call of eval, and without a change of any buffer."""
    loaded = VQFlow.load_from_checkpoint(trained[2])
    before = {name: value.clone() for name, value in loaded.state_dict().items()}

    for images in (torch.rand(1, 3, 64, 64), torch.rand(2, 3, 64, 64)):
        assert loaded(images).pred_label.shape == (len(images),)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loaded_model_trains(root, trained, tmp_path):
    """Fitting it further changes its weights."""
    loaded = VQFlow.load_from_checkpoint(trained[2], lr=1e-2)
    before = [parameter.clone() for parameter in loaded.parameters() if parameter.requires_grad]

    tiny_engine(tmp_path).fit(loaded, datamodule=tiny_data(root))

    after = [parameter for parameter in loaded.parameters() if parameter.requires_grad]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def halve(images):
    return images / 2


def test_a_transform_that_the_checkpoint_cannot_hold_is_asked_for(root, tmp_path):
    """Loading without it is refused; with it, and right after the training, scores are those of the training."""
    transform = Compose([Resize((64, 64), antialias=True), Lambda(halve)])
    model = tiny_model(pre_processor=PreProcessor(transform))
    engine = tiny_engine(tmp_path)
    engine.fit(model, datamodule=tiny_data(root))
    path, images = engine.best_model_path, torch.rand(2, 3, 80, 64)
    expected = model(images).pred_score

    with pytest.raises(ValueError, match=r"(?s)transform that it cannot hold.*halve.*pre_processor="):
        VQFlow.load_from_checkpoint(path)
    with pytest.raises(ValueError, match="transform that it cannot hold"):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=tiny_data(root), ckpt_path=path)
    loaded = VQFlow.load_from_checkpoint(path, pre_processor=PreProcessor(transform))
    assert torch.equal(loaded(images).pred_score, expected)
    engine.test(model, datamodule=tiny_data(root), ckpt_path=path)
    assert torch.equal(model(images).pred_score, expected)


def test_a_checkpoint_of_another_model_is_refused(root, tmp_path):
    """A PaDiM checkpoint is named as what it is: not ours."""
    padim = Padim("resnet18", ["layer1"], pre_trained=False, n_features=8, evaluator=False, visualizer=False)
    engine = tiny_engine(tmp_path)
    engine.fit(padim, datamodule=tiny_data(root))

    with pytest.raises(ValueError, match="not made by VQFlow"):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=tiny_data(root), ckpt_path=engine.best_model_path)


@pytest.mark.parametrize("version", [{}, {"format": 2}], ids=["0.1, which told none", "another"])
def test_a_checkpoint_of_another_version_is_refused(version, root, trained, tmp_path):
    """Its weights have other names or meanings: the error says so instead of listing them, whoever loads it."""
    checkpoint = torch.load(trained[2], weights_only=True)
    del checkpoint["vqflow"]["format"]
    checkpoint["vqflow"].update(version)
    torch.save(checkpoint, tmp_path / "old.ckpt")

    words = "made by another version of anomalib-vqflow.*Train again"
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


def test_a_finished_training_that_goes_on_equals_a_longer_one(root, tmp_path):
    """The validation at its end leaves no trace in what comes after."""
    whole, _ = train_for_resume(root, tmp_path / "whole", epochs=3)
    _, engine = train_for_resume(root, tmp_path / "part", epochs=2)
    longer, _ = train_for_resume(root, tmp_path / "rest", epochs=3, checkpoint=engine.best_model_path, seed=1)

    for name, value in whole.model.state_dict().items():
        assert torch.equal(longer.model.state_dict()[name], value), name


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
