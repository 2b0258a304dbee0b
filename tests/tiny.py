# SPDX-License-Identifier: Apache-2.0
"""A model, data and an engine that are small enough to train in a second."""

from anomalib.engine import Engine

from anomalib_vqflow import MultiCategory, VQFlow

from .data.folders import make_category

ARGUMENTS = {
    "backbone": "test_convnext2",
    "pre_trained": False,
    "concept_dim": 16,
    "num_concepts": 4,
    "position_dim": 8,
    "num_patterns": 8,
    "flow_steps": (1, 1, 1),
    "hidden_dim": 16,
    "use_whitening": False,
    "lr": 1e-4,
    "lr_schedule": "constant",
}


def tiny_model(**arguments):
    return VQFlow(**{**ARGUMENTS, "input_size": (64, 64), "visualizer": False, **arguments})


def tiny_torch_model(**arguments):
    return tiny_model(evaluator=False, **arguments).model


def tiny_root(folder, **arguments):
    for name in ("bolt", "nut"):
        make_category(folder, name, **arguments)
    return folder


def tiny_data(root, **arguments):
    return MultiCategory(root, **{"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4, **arguments})


def tiny_engine(folder, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(
        default_root_dir=folder, **{"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet, **arguments}
    )
