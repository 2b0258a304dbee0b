# SPDX-License-Identifier: Apache-2.0

"""Train the backbone that ships with the package, from procedural pictures only.

``python examples/train_backbone.py`` makes ``anomalib_vqflow/backbones/vqflow_tiny.safetensors``: half an hour on one
CPU core. A first stage learns few formulas in clear scenes, a second many more, fainter and lit from the side; it
starts from the file of the first. Runs on other machines differ in the last digits.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from anomalib_vqflow.backbones.pretext import FORMULAS, TEXTURES, PretextHeads, Targets, bank, compose
from anomalib_vqflow.backbones.tiny import WEIGHTS, WIDTHS

logger = logging.getLogger(__name__)

HELD_OUT = 4  # pictures of every class that are never trained on


class Stage(NamedTuple):
    """What changes between the stages.

    Args:
        num_classes: Number of random formulas.
        num_pictures: Pictures per class, ``HELD_OUT`` of them held out.
        num_steps: Training steps.
        lr: Peak learning rate.
        least_contrast: Smallest contrast of a picture.
        relief: How strongly pictures may be lit as heights.
    """

    num_classes: int
    num_pictures: int
    num_steps: int
    lr: float
    least_contrast: float
    relief: float


STAGES = (Stage(120, 44, 2200, 2e-3, 0.2, 0.0), Stage(480, 24, 1800, 1.5e-3, 0.08, 0.6))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write, safetensors in half precision")
    parser.add_argument("--first-stage", type=int, default=0, choices=(0, 1), help="1: go on from the file of stage 0")
    parser.add_argument("--num-classes", type=int, help="formulas of both stages, for a trial run")
    parser.add_argument("--num-steps", type=int, help="steps of both stages, for a trial run")
    parser.add_argument("--batch-size", type=int, default=64, help="scenes of 96x96; every 4th step 3/8 at 160x160")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="weight decay of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="seed of classes, pictures, scenes and weights")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


def draw(pictures: Tensor, size: int, num: int, stage: Stage, rng: Generator) -> Targets:
    """Compose scenes from random pictures of a bank ``(classes, pictures, P, P)``."""
    classes, instances = pictures.shape[:2]
    index = torch.randint(classes * instances, (2, num), generator=rng)
    labels = index // instances
    figures = labels % len(FORMULAS) >= len(TEXTURES)
    first, second = pictures.flatten(0, 1)[index]
    looks = {"least_contrast": stage.least_contrast, "relief": stage.relief}
    scenes = compose(first, second, (figures[0], figures[1]), size, rng, **looks)
    return Targets(scenes, *labels)


def evaluate(network: nn.Module, heads: PretextHeads, pictures: Tensor, stage: Stage) -> list[float]:
    """Return the accuracies of the four levels and of whole scenes on held-out pictures."""
    network.eval()
    rng = Generator().manual_seed(1)
    with torch.no_grad():
        rounds = [draw(pictures, 128, 64, stage, rng) for _ in range(8)]
        rights = [heads(network(targets.scenes.images), targets, rng)[1] for targets in rounds]
    network.train()
    return [round(value, 3) for value in torch.stack(rights).mean(dim=0).tolist()]


def train(stage: Stage, args: argparse.Namespace, index: int) -> None:
    """Train one stage and save it every 500 steps; every stage but the first starts from the saved file."""
    torch.manual_seed(args.seed + index)
    rng, start = Generator().manual_seed(args.seed + index), time.monotonic()
    pictures = torch.from_numpy(bank(stage.num_classes, stage.num_pictures, seed=args.seed + index))
    logger.info("stage %d: %d pictures in %.0f s", index, pictures[:, :, 0, 0].numel(), time.monotonic() - start)
    file = {"file": str(args.output)}
    network = timm.create_model("vqflow_tiny", index > 0, pretrained_cfg_overlay=file, features_only=True)
    network = network.to(memory_format=torch.channels_last)
    heads = PretextHeads(WIDTHS, stage.num_classes)
    parameters = [*network.parameters(), *heads.parameters()]
    kernels, rest = ([p for p in parameters if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups = [{"params": kernels, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.lr, stage.num_steps, pct_start=0.06)
    for step in range(1, stage.num_steps + 1):
        size, num = (160, args.batch_size * 3 // 8) if step % 4 == 0 else (96, args.batch_size)
        targets = draw(pictures[:, HELD_OUT:], size, num, stage, rng)
        images = targets.scenes.images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network(images)
        loss, right = heads([level.float() for level in maps], targets, rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            numbers = " ".join(f"{value:.3f}" for value in right.tolist())
            logger.info("step %d, %.0f s, loss %.3f, right %s", step, time.monotonic() - start, loss.item(), numbers)
        if step % 500 == 0 or step == stage.num_steps:
            held_out = evaluate(network, heads, pictures[:, :HELD_OUT], stage)
            logger.info("held-out accuracy of levels and scenes: %s", held_out)
            save(network, args.output)


def save(network: nn.Module, path: Path) -> None:
    """Write the weights in half precision, under the names of the plain network instead of the feature extractor."""
    state = network.state_dict()
    names = timm.create_model("vqflow_tiny").state_dict()
    named = {name: state[name.replace("stages.", "stages_", 1)] for name in names}
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in named.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in half.items()}, path)
    logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def main() -> None:
    """Train as the command line says."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = arguments()
    torch.set_num_threads(args.threads)
    changes = {name: value for name in ("num_classes", "num_steps") if (value := getattr(args, name)) is not None}
    for index, stage in enumerate(STAGES):
        if index >= args.first_stage:
            train(stage._replace(**changes), args, index)


if __name__ == "__main__":
    main()
