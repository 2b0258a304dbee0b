# SPDX-License-Identifier: Apache-2.0

"""Test of the training of the backbone, from its command line."""

import re
import subprocess
import sys
from pathlib import Path

import timm
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]


def test_training_lowers_the_loss_and_writes_weights_that_timm_loads(tmp_path: Path) -> None:
    """A short run with a local teacher explains more of its maps step by step, and ends in a complete file."""
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "new" / "weights.safetensors"
    save_file(timm.create_model("mobilenetv2_100", num_classes=0).state_dict(), teacher)
    command = [sys.executable, "-m", "backbone_training.train", "--output", str(output)]
    command += ["--teacher", "mobilenetv2_100", "--weights", str(teacher)]
    command += ["--num-classes", "12", "--batch-size", "4", "--num-steps", "60"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unexplained = [int(share) for share in re.findall(r"(\d+) %", done.stderr)]
    assert len(unexplained) == 8, done.stderr  # four levels, after 50 and 60 steps
    assert sum(unexplained[4:]) < sum(unexplained[:4]), done.stderr
    overlay = {"file": str(output)}
    network = timm.create_model("vqflow_tiny", pretrained=True, pretrained_cfg_overlay=overlay)
    assert set(network.state_dict()) == set(load_file(output))
