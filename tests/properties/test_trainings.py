# SPDX-License-Identifier: Apache-2.0
import shutil
import tempfile

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_vqflow import VQFlow
from tests.tiny import tiny_data, tiny_engine, tiny_model

from .oracle import Difference, judge

BATCHES = st.one_of(st.integers(0, 3), st.sampled_from((0.25, 0.5, 1.0)))
LENGTHS = {
    "max_epochs": st.sampled_from((1, 2, 3, -1)),
    "max_steps": st.integers(-1, 5),
    "min_epochs": st.integers(0, 2),
    "max_time": st.just({"seconds": 1}),
    "limit_train_batches": BATCHES,
    "limit_val_batches": BATCHES,
    "check_val_every_n_epoch": st.sampled_from((1, 2, 5, None)),
    "val_check_interval": st.one_of(st.integers(1, 3), st.sampled_from((0.5, 1.0))),
    "num_sanity_val_steps": st.integers(0, 2),
    "accumulate_grad_batches": st.integers(1, 3),
    "overfit_batches": st.sampled_from((0, 1, 0.5)),
    "reload_dataloaders_every_n_epochs": st.integers(0, 1),
}
MODELS = {
    "use_whitening": st.booleans(),
    "score_map": st.sampled_from(("likelihood", "multiplicative")),
    "lr": st.just(1e-2),
}
DATA = {
    "val_split_mode": st.sampled_from(("none", "same_as_test", "from_test", "from_train", "synthetic")),
    "train_batch_size": st.sampled_from((2, 4, 7)),
    "balanced_sampling": st.booleans(),
}


@st.composite
def trainings(draw):
    """Draw arguments of engine, model and datamodule; the training must have some end that is near."""
    engine, model, data = (draw(st.fixed_dictionaries({}, optional=kind)) for kind in (LENGTHS, MODELS, DATA))
    if engine.get("max_epochs") == -1 and engine.get("max_steps", -1) == -1:
        engine["max_time"] = {"seconds": 1}
    return engine, model, data


def train(root, folder, drawn):
    """Train; return the model, the engine, the datamodule, and what the last checkpoint holds."""
    engine_arguments, model_arguments, data = drawn
    model, engine = tiny_model(**model_arguments), tiny_engine(folder, **engine_arguments)
    datamodule = tiny_data(root, **data)
    engine.train(model, datamodule=datamodule)
    path = engine.best_model_path
    return model, engine, datamodule, torch.load(path, weights_only=True) if path else None


def lacks(result):
    """Find what the last checkpoint lacks of the training, and the words that tell it."""
    model, engine, datamodule, checkpoint = result
    if checkpoint is None:
        yield Difference("no checkpoint", ("checkpoint", "No checkpoint"))
        return
    last_step = engine.trainer.fit_loop.epoch_loop.global_step
    if checkpoint["global_step"] != last_step:
        yield Difference("another step", ("step",))
    if model._complete_step != last_step:
        yield Difference("no calibration, or that of another step", ("calibration",))
    for name, value in model.state_dict().items():
        if not torch.equal(value.nan_to_num(7), checkpoint["state_dict"][name].nan_to_num(7)):
            yield Difference(f"another {name}", ("step",))
    if not any(model.post_processor.known):
        yield Difference("no threshold", ("threshold", "No threshold"))
    fresh = VQFlow.load_from_checkpoint(engine.best_model_path)
    if repr(engine.trainer.limit_val_batches) == "1.0" and engine.trainer.val_dataloaders:
        again = tiny_engine(engine.trainer.default_root_dir)
        again.validate(fresh, datamodule=datamodule)
        if not torch.allclose(fresh.post_processor.image_threshold, model.post_processor.image_threshold):
            yield Difference("another threshold", ("threshold",))


@settings(max_examples=max(settings().max_examples // 100, 4))
@given(trainings())
def test_however_long_a_training_is_its_checkpoint_is_complete(root, drawn):
    """The last checkpoint holds the final weights, calibration and thresholds, or a warning tells what it lacks."""
    folder = tempfile.mkdtemp()
    try:
        names = [name for arguments in drawn for name in arguments]
        judge("trainings", lambda: train(root, folder, drawn), lacks, names)
    finally:
        shutil.rmtree(folder)
