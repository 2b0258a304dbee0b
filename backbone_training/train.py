# SPDX-License-Identifier: Apache-2.0
"""Train the backbone that ships with the package, on procedural scenes.

    python -m backbone_training.train

It writes ``anomalib_vqflow/backbones/vqflow_tiny.safetensors`` in 40 minutes on one CPU core that computes in bfloat16.
The small network learns to predict the feature maps of a larger one, EfficientNet-Lite0 with ImageNet weights
(Apache-2.0, from the extra ``lite0``), on scenes drawn from random formulas: it has seen neither photographs nor images
of the products in ``SyntheticProducts``. ``--teacher`` names another network, whose weights timm downloads unless
``--weights`` names a local file. Runs on other machines differ in the last digits.
"""

import argparse
import logging
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import Normalize

from anomalib_vqflow.backbones import DEFAULT_BACKBONE, SHIPPED, normalization
from anomalib_vqflow.backbones.tiny import WEIGHTS, WIDTHS
from anomalib_vqflow.features import FeaturePyramid

from .bank import FORMULAS, bank
from .scenes import compose
from .textures import TEXTURES

logger = logging.getLogger(__name__)

NUM_PICTURES = 24  # of every class
SIZE = 128  # side of a scene in pixels


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write, safetensors in half precision")
    parser.add_argument("--teacher", default=DEFAULT_BACKBONE, help="timm model to predict the maps of")
    parser.add_argument("--weights", default=True, help="local weights of the teacher")
    parser.add_argument("--num-classes", type=int, default=480, help="random formulas")
    parser.add_argument("--num-steps", type=int, default=7000, help="training steps")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=7, help="seed of pictures, scenes and weights")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


def draw(pictures: Tensor, num: int, rng: Generator) -> Tensor:
    """Compose scenes of shape ``(num, 3, SIZE, SIZE)`` from a bank ``(classes, pictures, P, P)``."""
    classes, instances = pictures.shape[:2]
    index = torch.randint(classes * instances, (2, num), generator=rng)
    figures = (index // instances) % len(FORMULAS) >= len(TEXTURES)
    first, second = pictures.flatten(0, 1)[index]
    return compose(first, second, (figures[0], figures[1]), SIZE, rng)


def train(teacher: nn.Module, args: argparse.Namespace) -> None:
    """Fit the maps of the student, through a 1×1 convolution per level, to the standardized maps of the teacher."""
    torch.manual_seed(args.seed)
    rng, start = Generator().manual_seed(args.seed), time.monotonic()
    pictures = torch.from_numpy(bank(args.num_classes, NUM_PICTURES, seed=args.seed))
    logger.info("%d pictures in %.0f s", pictures[:, :, 0, 0].numel(), time.monotonic() - start)
    student = timm.create_model(SHIPPED, features_only=True).to(memory_format=torch.channels_last)
    widths = teacher.feature_info.channels()
    for_teacher, for_student = (Normalize(*normalization(name)) for name in (args.teacher, SHIPPED))
    standardize = nn.ModuleList(nn.BatchNorm2d(width, affine=False, momentum=0.02) for width in widths)
    heads = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in zip(WIDTHS, widths, strict=True))
    parameters = [*student.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.num_steps, pct_start=0.08)
    average = None
    for step in range(1, args.num_steps + 1):
        scenes = draw(pictures, args.batch_size, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                theirs = teacher(for_teacher(scenes))
            ours = student(for_student(scenes))
        targets = [norm(level.float()) for norm, level in zip(standardize, theirs, strict=True)]
        losses = torch.stack([F.mse_loss(h(o.float()), t) for h, o, t in zip(heads, ours, targets, strict=True)])
        optimizer.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        average = losses.detach() if average is None else average.lerp(losses.detach(), 0.02)
        if step % 50 == 0 or step == args.num_steps:
            levels = ", ".join(f"{100 * value:.0f} %" for value in average.tolist())
            logger.info("step %d, %.0f s, unexplained variance %s", step, time.monotonic() - start, levels)
    save(student, args.output)


def save(student: nn.Module, path: Path) -> None:
    """Write the weights in half precision, under the names of the plain network instead of the feature extractor."""
    state = student.state_dict()
    names = timm.create_model(SHIPPED).state_dict()
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
    # This module loads weights safely; its body is timm's feature extractor, frozen and in eval mode.
    pyramid = FeaturePyramid(
        backbone=args.teacher,
        layers=None,
        num_levels=3,
        detail_pooling="stride_2",
        semantic_level=False,
        prefix_tokens=False,
        pre_trained=args.weights,
        input_size=(SIZE, SIZE),
    )
    train(pyramid.body.to(memory_format=torch.channels_last), args)


if __name__ == "__main__":
    main()
