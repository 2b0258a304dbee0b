# SPDX-License-Identifier: Apache-2.0

"""Tests of the scenes that train the backbone, and of the script that runs it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from anomalib_vqflow.backbones.pretext import FORMULAS, compose, pictures

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("index", range(len(FORMULAS)))
def test_a_class_is_repeatable_and_its_pictures_differ(index: int) -> None:
    """Same class and seed: same pictures; another class of the same formula or another seed: others."""
    first = pictures(index, 3, size=32)
    assert first.shape == (3, 32, 32)
    assert first.dtype == np.uint8
    assert np.array_equal(first, pictures(index, 3, size=32))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, pictures(index + len(FORMULAS), 3, size=32))
    assert not np.array_equal(first, pictures(index, 3, size=32, seed=1))
    assert first.std() > 5


def scenes(num: int, size: int, seed: int = 0) -> Tensor:
    """Compose scenes of a texture and a figure each."""
    first, second = (torch.from_numpy(pictures(index, num, size=64)) for index in (0, len(FORMULAS) - 1))
    no = torch.zeros(num, dtype=torch.bool)
    return compose(first, second, (no, ~no), size, Generator().manual_seed(seed))


def test_scenes_are_repeatable_finite_and_all_different() -> None:
    """The same seed draws the same scenes, another seed others, and no two scenes of a batch are alike."""
    images = scenes(16, 96)
    assert images.shape == (16, 3, 96, 96)
    assert images.isfinite().all()
    assert torch.equal(images, scenes(16, 96))
    assert not torch.equal(images, scenes(16, 96, seed=1))
    distances = torch.cdist(images.flatten(1), images.flatten(1)) + torch.eye(16) * 1e9
    assert distances.min() > 1


def test_the_script_lowers_the_loss_and_writes_weights_that_timm_loads(tmp_path: Path) -> None:
    """A short run with a local teacher explains more of its maps step by step, and ends in a complete file."""
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "new" / "weights.safetensors"
    save_file(timm.create_model("mobilenetv2_100", num_classes=0).state_dict(), teacher)
    command = [sys.executable, "examples/train_backbone.py", "--output", str(output), "--teacher", str(teacher)]
    command += ["--num-classes", "12", "--batch-size", "4", "--num-steps", "60"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unexplained = [int(share) for share in re.findall(r"(\d+) %", done.stderr)]
    assert len(unexplained) == 8, done.stderr  # four levels, after 50 and 60 steps
    assert sum(unexplained[4:]) < sum(unexplained[:4]), done.stderr
    overlay = {"file": str(output)}
    network = timm.create_model("vqflow_tiny", pretrained=True, pretrained_cfg_overlay=overlay)
    assert set(network.state_dict()) == set(load_file(output))
