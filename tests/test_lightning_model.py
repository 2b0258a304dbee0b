# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.cli import AnomalibCLI
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.models import Padim, get_model
from anomalib.post_processing import PostProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import ColorJitter, Compose, RandomHorizontalFlip

from anomalib_vqflow import CategoryEvaluator, VQFlow
from anomalib_vqflow.calibration import ConceptCalibration
from anomalib_vqflow.schedule import DEFAULT_EPOCHS, WarmupSchedule
from anomalib_vqflow.torch_model import VQFlowModel

from .tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model, tiny_root

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


class StopAtOnce(Callback):
    """Stop after the first batch, and remember how long the training should have been."""

    def on_train_batch_end(self, trainer, *_):
        self.max_epochs = trainer.max_epochs
        trainer.should_stop = True


class Recorder(Callback):
    """Remember what was logged, the learning rate and the gradients' norm, per step."""

    def __init__(self):
        self.logged, self.lrs, self.norms = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.nn.utils.get_total_norm(grads).item())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_root(tmp_path_factory.mktemp("data") / "products")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A trained model, its engine, and the path of its checkpoint."""
    seed_everything(0)
    model = tiny_model()
    engine = tiny_engine(tmp_path_factory.mktemp("trained"))
    engine.train(model, datamodule=tiny_data(root))
    return model, engine, engine.best_model_path


def items(count, size=64, broken=()):
    """Random images as items of a dataset; the numbers in ``broken`` have a NaN pixel."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    for index in broken:
        images[index, 1, 3, 4] = torch.nan
    return [
        ImageItem(image=image, image_path=f"image_{index}.png", gt_label=torch.tensor(0))
        for index, image in enumerate(images)
    ]


def loader(count, batch_size, **arguments):
    return DataLoader(items(count, **arguments), batch_size, collate_fn=ImageBatch.collate)


def fit(folder, train, **arguments):
    """Fit a tiny model to the batches of a loader, without validation."""
    model = tiny_model(evaluator=False, **arguments.pop("model", {}))
    engine = tiny_engine(folder, limit_val_batches=0, **arguments)
    engine.fit(model, train_dataloaders=train)
    return model, engine


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


def test_missing_weights_are_accepted_if_not_strict(trained, tmp_path):
    """``strict=False`` means what it means in Lightning."""
    checkpoint = torch.load(trained[2], weights_only=True)
    del checkpoint["state_dict"]["model.flow.scale_flows.0.0.global_offset"]
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


def test_more_epochs_on_resume_keep_the_warm_up(root, tmp_path):
    """Raising ``max_epochs`` goes on at the learning rate that was reached, without a second warm-up."""
    arguments = {"lr": 1e-2, "warmup_ratio": 0.5}
    short, recorder = tiny_engine(tmp_path / "short", max_epochs=2), Recorder()
    short.fit(tiny_model(**arguments), datamodule=tiny_data(root))
    long = tiny_engine(tmp_path / "long", max_epochs=60, callbacks=[recorder, StopAtOnce()])
    long.fit(tiny_model(**arguments), datamodule=tiny_data(root), ckpt_path=short.best_model_path)

    assert recorder.lrs == [1e-2]


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


def test_the_loss_and_its_parts_are_logged(tmp_path):
    """The logged loss is per latent dimension: its negative log-likelihood plus its share of the commitment."""
    recorder = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, loader(6, 3), callbacks=[recorder])

    logged = recorder.logged[-1]
    assert {f"pattern_perplexity/{level}" for level in range(4)} <= logged.keys()
    assert {f"pattern_live_ratio/{level}" for level in range(4)} <= logged.keys()
    num_dims = 32 * 8 * 8 + 64 * 4 * 4 + 96 * 2 * 2
    share = logged["train_commitment"] / num_dims
    assert logged["train_loss_step"] == pytest.approx(logged["train_nll"] + share, rel=1e-4)
    assert 1 <= logged["concept_perplexity"] <= 4
    assert 0 < logged["concept_live_ratio"] <= 1
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


def test_half_precision_weights_are_refused(tmp_path):
    """bf16-true would freeze the running means of the codebooks, so the error names what to use instead."""
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit(tmp_path, loader(4, 2), precision="bf16-true")


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
    file.write(f"{engine.trainer.global_step} {weights}")
"""


@pytest.mark.slow
def test_a_last_batch_of_one_image_does_not_break_distributed_training(tmp_path):
    """Two processes with three images each, in batches of two, stay in step and end with equal, finite weights."""
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)

    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("4 ")
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


def test_the_whitening_is_fitted_before_the_first_step(tmp_path):
    """The whitened maps of the training images have zero mean and identity covariance, also after loading."""
    model, engine = fit(tmp_path, loader(8, 2), model={"use_whitening": True})

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)
    images = torch.cat([model.pre_processor.transform(batch.image) for batch in loader(8, 2)])
    for whitening, details in zip(loaded.model.flow.whitenings, model.model.features(images).details, strict=True):
        cells = whitening.transform(details)[0].permute(0, 2, 3, 1).flatten(0, 2).detach()
        assert whitening.fitted
        assert cells.mean(dim=0).abs().max() < 1e-3
        spread = torch.cov(cells.T, correction=0)
        assert spread.diagonal().max() < 1.01
        assert (spread - torch.diag(spread.diagonal())).abs().max() < 1e-2


def test_a_resumed_training_keeps_its_whitening(tmp_path):
    """The whitening belongs to the weights: it is fitted once."""
    model, engine = fit(tmp_path, loader(8, 2), model={"use_whitening": True})
    again = tiny_model(use_whitening=True, evaluator=False)
    tiny_engine(tmp_path / "again", max_epochs=2).fit(
        model=again, train_dataloaders=loader(4, 2), ckpt_path=engine.best_model_path
    )

    for ours, theirs in zip(again.model.flow.whitenings, model.model.flow.whitenings, strict=True):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("validates", [True, False])
def test_the_scores_are_calibrated_on_the_training_images(root, tmp_path, validates):
    """Also without validation, the checkpoint holds location and scale of the final model's scores of these images."""
    model, engine = tiny_model(evaluator=False), tiny_engine(tmp_path, max_epochs=2, limit_val_batches=int(validates))
    data = tiny_data(root, train_batch_size=8)
    engine.fit(model, datamodule=data)
    calibration = VQFlow.load_from_checkpoint(engine.best_model_path).model.anomaly_map_generator.calibration
    assert calibration.fitted

    images = torch.stack([model.pre_processor.transform(item.image) for item in data.train_data])
    expected = deepcopy(model.model).eval()
    expected.anomaly_map_generator.calibration = ConceptCalibration(calibration.location.numel())
    expected.fit_calibration_([expected.features(images)])
    assert_close(calibration.state_dict(), expected.anomaly_map_generator.calibration.state_dict())
    assert not torch.equal(calibration.location, torch.zeros_like(calibration.location))


def test_calibration_does_not_touch_the_training(root, tmp_path, monkeypatch):
    """It draws no random numbers and changes no weight: without it, a training ends at the same weights."""
    weights = []
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr(VQFlow, "_some_features", lambda _: iter(()))
            monkeypatch.setattr(VQFlowModel, "fit_calibration_", lambda *_: None)
        seed_everything(0)
        model = tiny_model(evaluator=False)
        augmented = tiny_data(root, train_augmentations=RandomHorizontalFlip())
        tiny_engine(tmp_path, max_epochs=2).fit(model, datamodule=augmented)
        weights.append(dict(model.model.named_parameters()))

    assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_relative_maps_are_not_calibrated(root, tmp_path):
    """The published maps are relative to an image's best pixel, so that shifting them would mean nothing."""
    model = tiny_model(score_map="multiplicative", evaluator=False)
    tiny_engine(tmp_path).fit(model, datamodule=tiny_data(root))

    assert not model.model.anomaly_map_generator.calibration.fitted


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
    assert VQFlow.configure_pre_processor().transform(torch.rand(1, 3, 10, 10)).shape == (1, 3, 384, 384)


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
    assert model.model.features.detail_shapes[0] == (32, 12, 16)


def test_plain_lightning_trains_the_model(root, tmp_path):
    """anomalib's engine is a convenience: Lightning's trainer alone fits the model."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(tiny_model(), datamodule=tiny_data(root))

    assert trainer.global_step == 2
