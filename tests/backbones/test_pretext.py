# SPDX-License-Identifier: Apache-2.0

"""Tests of the pretext task that trains the backbone, and of the script that runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from anomalib_vqflow.backbones.pretext import FORMULAS, PretextHeads, Scenes, Targets, bank, compose, pictures

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


def scenes(num: int, size: int, seed: int = 0) -> Scenes:
    """Compose scenes of a black and a white picture each."""
    black, white = torch.zeros(num, 64, 64, dtype=torch.uint8), torch.full((num, 64, 64), 255, dtype=torch.uint8)
    no = torch.zeros(num, dtype=torch.bool)
    return compose(black, white, (no, ~no), size, Generator().manual_seed(seed))


def test_scenes_are_repeatable_finite_and_mixed_in_some_images_only() -> None:
    """The cover is a share, absent in about half of the scenes and present in the others."""
    images, cover = scenes(64, 96)
    assert images.shape == (64, 3, 96, 96)
    assert cover.shape == (64, 1, 96, 96)
    assert images.isfinite().all()
    assert 0 <= cover.min() <= cover.max() <= 1
    assert 0.2 < (cover.amax(dim=(1, 2, 3)) == 0).float().mean() < 0.8
    assert torch.equal(images, scenes(64, 96).images)
    assert not torch.equal(images, scenes(64, 96, seed=1).images)


def oracle_maps(targets: Targets, num_classes: int) -> list[Tensor]:
    """Return maps that hold the right class of every pixel, and nothing else."""
    size = targets.scenes.cover.shape[-1]
    first, second = (torch.eye(num_classes)[labels][:, :, None, None] for labels in (targets.first, targets.second))
    pixels = torch.where(targets.scenes.cover < 0.5, first, second).expand(-1, -1, size, size)
    return [torch.nn.functional.avg_pool2d(pixels, stride) for stride in (4, 8, 16, 32)]


def test_heads_read_the_class_of_each_cell() -> None:
    """With maps that hold the answer and read-outs that pass it on, every level is right, and wrong with it turned."""
    num_classes = 5
    labels = torch.randint(num_classes, (2, 32), generator=Generator().manual_seed(0))
    labels[1] = (labels[0] + 1) % num_classes
    targets = Targets(scenes(32, 96), *labels)
    heads = PretextHeads([num_classes] * 4, num_classes)
    with torch.no_grad():
        for head in [*heads.formulas, heads.scene]:
            head.weight.copy_(torch.eye(num_classes) * 20)
            head.bias.zero_()
    maps = oracle_maps(targets, num_classes)
    loss, right = heads(maps, targets, Generator().manual_seed(0))
    assert right.shape == (5,)
    assert right.min() > 0.97
    worse, wrong = heads([level.roll(1, dims=1) for level in maps], targets, Generator().manual_seed(0))
    assert wrong.max() < 0.2
    assert worse > loss + 5


def test_a_few_steps_lower_the_loss() -> None:
    """The network learns one fixed batch."""
    torch.manual_seed(0)
    rng = Generator().manual_seed(0)
    pool = torch.from_numpy(bank(12, 2, size=64))
    labels = torch.arange(12)
    no = torch.zeros(12, dtype=torch.bool)
    targets = Targets(compose(pool[:, 0], pool[:, 1].roll(1, dims=0), (no, no), 64, rng), labels, labels.roll(1))
    network = timm.create_model("vqflow_tiny", features_only=True)
    heads = PretextHeads((32, 64, 96, 160), 12)
    optimizer = torch.optim.AdamW([*network.parameters(), *heads.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        loss, _ = heads(network(targets.scenes.images), targets, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_script_writes_weights_that_timm_loads(tmp_path: Path) -> None:
    """A very short run of the script ends in a complete file in half precision."""
    output = tmp_path / "new" / "weights.safetensors"
    command = [sys.executable, "examples/train_backbone.py", "--output", str(output), "--num-steps", "2"]
    command += ["--num-classes", "12", "--batch-size", "8"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    overlay = {"file": str(output)}
    network = timm.create_model("vqflow_tiny", pretrained=True, pretrained_cfg_overlay=overlay)
    assert set(network.state_dict()) == set(load_file(output))
