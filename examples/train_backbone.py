# SPDX-License-Identifier: Apache-2.0

"""Train the backbone that ships with the package, from procedural pictures only.

``python examples/train_backbone.py`` makes ``anomalib_vqflow/backbones/vqflow_tiny.safetensors``: about half an hour on
one CPU core. Runs on other machines differ in the last digits.
"""

import argparse
import logging
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from anomalib_vqflow.backbones.pretext import FORMULAS, TEXTURES, PretextHeads, Targets, bank, compose
from anomalib_vqflow.backbones.tiny import WEIGHTS, WIDTHS

logger = logging.getLogger(__name__)

HELD_OUT = 4  # pictures of every class that are never trained on


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write, safetensors in half precision")
    parser.add_argument("--num-classes", type=int, default=120, help="number of random formulas")
    parser.add_argument("--num-pictures", type=int, default=44, help="pictures per class, 4 of them held out")
    parser.add_argument("--num-steps", type=int, default=2200, help="training steps")
    parser.add_argument("--batch-size", type=int, default=64, help="scenes of 96x96; every 4th step 3/8 at 160x160")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="weight decay of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="seed of classes, pictures, scenes and weights")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


def draw(pictures: Tensor, size: int, num: int, rng: Generator) -> Targets:
    """Compose scenes from random pictures of a bank ``(classes, pictures, P, P)``."""
    classes, instances = pictures.shape[:2]
    index = torch.randint(classes * instances, (2, num), generator=rng)
    labels = index // instances
    is_figure = labels % len(FORMULAS) >= len(TEXTURES)
    first, second = pictures.flatten(0, 1)[index]
    return Targets(compose(first, second, (is_figure[0], is_figure[1]), size, rng), *labels)


def evaluate(network: nn.Module, heads: PretextHeads, pictures: Tensor) -> list[float]:
    """Return the accuracies of the four levels and of whole scenes on held-out pictures."""
    network.eval()
    rng = Generator().manual_seed(1)
    with torch.no_grad():
        rounds = [draw(pictures, 128, 64, rng) for _ in range(8)]
        rights = [heads(network(targets.scenes.images), targets, rng)[1] for targets in rounds]
    network.train()
    return [round(value, 3) for value in torch.stack(rights).mean(dim=0).tolist()]


def train(args: argparse.Namespace) -> None:
    """Train the network and save it every 500 steps."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng, start = Generator().manual_seed(args.seed), time.monotonic()
    pictures = torch.from_numpy(bank(args.num_classes, args.num_pictures, seed=args.seed))
    logger.info("%d pictures in %.0f s", pictures[:, :, 0, 0].numel(), time.monotonic() - start)
    network = timm.create_model("vqflow_tiny", features_only=True).to(memory_format=torch.channels_last)
    heads = PretextHeads(WIDTHS, args.num_classes)
    parameters = [*network.parameters(), *heads.parameters()]
    kernels, rest = ([p for p in parameters if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups = [{"params": kernels, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.num_steps, pct_start=0.06)
    for step in range(1, args.num_steps + 1):
        size, num = (160, args.batch_size * 3 // 8) if step % 4 == 0 else (96, args.batch_size)
        targets = draw(pictures[:, HELD_OUT:], size, num, rng)
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
        if step % 500 == 0 or step == args.num_steps:
            logger.info("held-out accuracy of levels and scenes: %s", evaluate(network, heads, pictures[:, :HELD_OUT]))
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
    train(arguments())


if __name__ == "__main__":
    main()
