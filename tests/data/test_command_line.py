# SPDX-License-Identifier: Apache-2.0
"""Tests of data and metrics through anomalib's command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_vqflow.configuration import configuration_of_run
from tests.forked import run_command

from .folders import make_category

pytestmark = pytest.mark.slow

TINY = [
    "--model=VQFlow",
    "--model.backbone=test_convnext2",
    "--model.pre_trained=false",
    "--model.input_size=[64,64]",
    "--model.concept_dim=16",
    "--model.num_concepts=4",
    "--model.position_dim=8",
    "--model.num_patterns=8",
    "--model.flow_steps=[1,1,1]",
    "--model.hidden_dim=16",
    "--trainer.max_epochs=1",
]
PADIM = ["--model=Padim", "--model.backbone=resnet18", "--model.pre_trained=false", "--model.n_features=8"]
SYNTHETIC = [
    "--data=SyntheticProducts",
    '--data.categories=["cap","tile"]',
    "--data.image_size=64",
    "--data.num_train=8",
    "--data.num_test_good=4",
    "--data.num_test_defective=5",
    "--data.num_workers=0",
]
COUNTS = {"cap": (4, 5), "tile": (4, 5), "macro": (8, 10), "pooled": (8, 10)}


def anomalib(folder, command, *arguments):
    """Run a command of anomalib in a folder, in a process that has imported it, and return what it printed."""
    code, printed = run_command("anomalib", command, "--trainer.accelerator=cpu", *arguments, folder=folder)
    assert code == 0, printed[-6000:]
    return printed


def anomalib_anew(folder, *arguments):
    """Run anomalib in a folder, as it is installed, and return what it printed."""
    executable = Path(sys.executable).with_name("anomalib")
    result = subprocess.run(
        [executable, *arguments, "--trainer.accelerator=cpu"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    return result.stdout


def counts_in(folder, name="category_metrics.json"):
    results = json.loads((folder / name).read_text())
    return {name: (row["normal"], row["anomalous"]) for name, row in results.items()}


def test_training_and_test_from_a_checkpoint_report_once_each(tmp_path):
    """Training prints one table and writes it into the folder of the weights; so does a test from the checkpoint."""
    folder = tmp_path / "results/VQFlow/SyntheticProducts/v0"
    assert anomalib_anew(tmp_path, "train", *TINY, *SYNTHETIC).count("Results per category") == 1
    checkpoint = folder / "weights/lightning/model.ckpt"
    assert checkpoint.exists()
    assert counts_in(folder) == COUNTS
    assert (folder / "category_metrics.csv").exists()

    printed = anomalib(tmp_path, "test", *TINY, *SYNTHETIC, f"--ckpt_path={checkpoint}")
    assert printed.count("Results per category") == 1
    assert counts_in(folder, "category_metrics-v1.json") == COUNTS
    assert (folder / "category_metrics-v1.csv").exists()
    assert counts_in(folder) == COUNTS


def test_the_configuration_of_a_run_is_taken_by_all_commands(tmp_path):
    """The file that ``vqflow-config`` makes of a run's own goes with each command and the run's checkpoint."""
    anomalib(tmp_path, "train", *TINY, *SYNTHETIC, "--default_root_dir=results")
    (checkpoint,) = tmp_path.rglob("model.ckpt")
    config = configuration_of_run(checkpoint.parents[2])
    for command in ("fit", "train", "validate", "test", "predict", "export --export_type openvino"):
        anomalib(tmp_path, *command.split(), f"--config={config}", f"--ckpt_path={checkpoint}")
    assert list(tmp_path.rglob("model.xml"))


@pytest.mark.parametrize("class_path", ["MultiCategory", "anomalib_vqflow.MultiCategory"])
def test_config_files_name_the_datamodule_short_or_long(tmp_path, class_path):
    """A configuration file finds the datamodule under its short and its full name."""
    make_category(tmp_path / "own", "nut", size=(64, 64))
    make_category(tmp_path / "own", "bolt", masks=False, size=(48, 80), mode="L")
    config = {"data": {"class_path": class_path, "init_args": {"root": str(tmp_path / "own"), "num_workers": 0}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML

    anomalib(tmp_path, "train", *TINY, "--config=config.yaml")

    assert list(counts_in(tmp_path / "results/VQFlow/own/v0")) == ["bolt", "nut", "macro", "pooled"]


def test_other_models_report_per_category(tmp_path):
    """A model of anomalib's reports per category when given the evaluator by its short name."""
    printed = anomalib(tmp_path, "train", *PADIM, "--model.evaluator=CategoryEvaluator", *SYNTHETIC)

    assert printed.count("Results per category") == 1
    assert counts_in(tmp_path / "results/Padim/SyntheticProducts/v0") == COUNTS


def test_two_processes_train_balanced_and_count_every_test_image_once(tmp_path):
    """With DDP, an odd number of test images is evaluated once each, and one table is printed."""
    make_category(tmp_path / "own", "nut", train=8, good=4, defect=5)
    make_category(tmp_path / "own", "bolt", train=6, good=3, defect=3)
    data = ["--data=MultiCategory", f"--data.root={tmp_path / 'own'}", "--data.num_workers=0"]
    batches = ["--data.balanced_sampling=true", "--data.train_batch_size=4", "--data.eval_batch_size=4"]

    processes = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    printed = anomalib_anew(tmp_path, "train", *TINY, *data, *batches, *processes)

    assert printed.count("Results per category") == 1
    expected = {"bolt": (3, 3), "nut": (4, 5), "macro": (7, 8), "pooled": (7, 8)}
    assert counts_in(tmp_path / "results/VQFlow/own/v0") == expected
