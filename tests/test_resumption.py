# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torchvision.transforms.v2 import ColorJitter, Compose, RandomHorizontalFlip

from anomalib_vqflow.checkpoint_files import CheckpointFiles

from .tiny import tiny_data, tiny_engine, tiny_model
from .training import assert_same_bits


class Interrupt(Callback):
    """Press Ctrl-C after a step, or after a batch of the validation that follows it."""

    def __init__(self, step, in_validation=False):
        self.step, self.in_validation = step, in_validation

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.in_validation:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and self.in_validation:
            self.in_validation, self.step = False, -1
            raise KeyboardInterrupt


def train(root, folder, *callbacks, checkpoint=None, seed=0, data=None, **arguments):
    """Train for up to three epochs of four steps."""
    seed_everything(seed)
    model, engine = tiny_model(lr=1e-2), tiny_engine(folder, callbacks=[*callbacks], **{"max_epochs": 3, **arguments})
    augmentations = Compose([RandomHorizontalFlip(), ColorJitter(0.3)])
    datamodule = tiny_data(root, **{"train_augmentations": augmentations, "train_batch_size": 2, **(data or {})})
    try:
        engine.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
    except SystemExit:
        assert callbacks
    return model.state_dict(), engine


@pytest.mark.parametrize(
    ("interrupt", "arguments"),
    [
        (Interrupt(1), {}),
        (Interrupt(6), {"data": {"num_workers": 2}}),
        (Interrupt(3), {"data": {"balanced_sampling": True}}),
        (Interrupt(6), {"max_epochs": -1, "max_steps": 10}),
        (Interrupt(6, in_validation=True), {"val_check_interval": 0.5}),
        (Interrupt(12, in_validation=True), {"check_val_every_n_epoch": 3}),
        (Interrupt(12, in_validation=True), {}),
        (Interrupt(6), {"limit_val_batches": 0}),
    ],
)
def test_a_training_that_is_interrupted_within_an_epoch_equals_an_uninterrupted_one(
    root, tmp_path, interrupt, arguments
):
    """Resumed under another seed, all weights, buffers and thresholds are bit-equal; the first run's file is kept."""
    whole, _ = train(root, tmp_path / "whole", **arguments)
    train(root, tmp_path / "part", interrupt, **arguments)
    (path,) = (tmp_path / "part").rglob("model.ckpt")
    before = path.read_bytes()

    resumed, _ = train(root, tmp_path / "rest", checkpoint=path, seed=1, **arguments)

    assert_same_bits(resumed, whole)
    assert path.read_bytes() == before


def test_an_interruption_within_the_validation_does_not_count_images_twice(root, tmp_path):
    """The thresholds of the checkpoint are those of all validation images, each once."""
    whole, _ = train(root, tmp_path / "whole")
    interrupted, _ = train(root, tmp_path / "part", Interrupt(12, in_validation=True))

    assert_same_bits(interrupted, whole)


def test_a_training_that_was_ended_before_its_completion_is_completed(root, tmp_path):
    """Resumed without a step left, it gets its calibration and its thresholds, and its checkpoint holds them."""
    whole, engine = train(root, tmp_path / "whole")
    ended = torch.load(engine.best_model_path, weights_only=True)
    assert ended["vqflow"]["complete"]
    ended["vqflow"]["complete"] = False
    for name in ("post_processor._image_threshold", "post_processor.image_max"):
        ended["state_dict"][name].fill_(torch.nan)
    torch.save(ended, tmp_path / "ended.ckpt")

    completed, again = train(root, tmp_path / "rest", checkpoint=tmp_path / "ended.ckpt", seed=1)

    assert_same_bits(completed, whole)
    found = torch.load(again.best_model_path, weights_only=True)
    assert found["vqflow"]["complete"]
    assert found["global_step"] == ended["global_step"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    """The error names it; nothing else is left in its folder."""
    files = CheckpointFiles(None)
    files.save_checkpoint({"step": 1}, tmp_path / "model.ckpt")

    class Unsaved:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"model\.ckpt could not be written: .*No space left.* still there"):
        files.save_checkpoint({"step": Unsaved()}, tmp_path / "model.ckpt")

    assert torch.load(tmp_path / "model.ckpt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
