# SPDX-License-Identifier: Apache-2.0
"""A configuration for the benchmarks that takes no time."""

import pytest
import yaml

from tests.tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model, tiny_root


@pytest.fixture
def config(tmp_path):
    """A configuration of a tiny model on two categories."""
    model = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "visualizer": False}
    data = {
        "root": str(tiny_root(tmp_path / "products")),
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "num_workers": 0,
    }
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": model},
                "data": {"class_path": "anomalib_vqflow.MultiCategory", "init_args": data},
                "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False},
                "default_root_dir": str(tmp_path / "results"),
            }
        )
    )
    return path


@pytest.fixture
def checkpoint(tmp_path):
    """A trained model on the data of the configuration."""
    engine = tiny_engine(tmp_path / "run")
    engine.fit(tiny_model(), datamodule=tiny_data(tiny_root(tmp_path / "products")))
    return engine.best_model_path
