# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow beside anomalib's models, as exported: time per image, file size, memory.

    python benchmarks/peers.py --threads 2

All are exported to OpenVINO in FP32 for images of 256×256, with anomalib's defaults and random weights, on which
neither time nor size depends. Nothing is downloaded. What deviates or has to be chosen:

- PatchCore's memory bank holds 21,401 patches: 10 % (its default) of those of 209 images, the normal training images of
  one category of MVTec AD, ``bottle``. Its time grows with that number, so there is one with 4,096 patches, too.
- PaDiM's statistics have the size that its defaults give, whatever the number of images.
- PatchCore is exported for a single image, because anomalib's export fixes it to batches of two.
- U-Flow gets the backbone ``resnet18``; its default takes images of 448×448 only.
- VQ-Flow has its defaults, too; also with the package's own backbone. "Features alone" is its frozen backbone with
  pooled maps, and nothing else.

VQ-Flow is one model for all products. The others are meant for one product each.

Times are medians over rounds in which all models take turns, on one image, in OpenVINO, with its latency hint and in
float32. "As exported" is what ``OpenVINOInferencer`` does; in the other column, the model was fixed to batch 1 before
it was compiled (``model.reshape``). Peak memory is that of a process that only loads a model, as exported, and infers;
that of OpenVINO without a model is in the first line. A dash is for a model that OpenVINO cannot compile that way.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import openvino
import torch
from anomalib.models import EfficientAd, Fastflow, Padim, Patchcore, ReverseDistillation, Uflow
from measuring import (
    NOT_EVALUABLE,
    Times,
    compile_request,
    file_size,
    peak_memory_of_inference,
    print_header,
    print_row,
    take_turns,
)
from models import ONNX, build, export_openvino, randomize_

from anomalib_vqflow import VQFlow
from anomalib_vqflow.backbones import DEFAULT_BACKBONE

SIZE = 256
IMAGE = (1, 3, SIZE, SIZE)
WARM_UP = 3
NUM_NORMAL_IMAGES = 209  # normal training images of MVTec AD's bottle


def vqflow(backbone: str = DEFAULT_BACKBONE) -> VQFlow:
    """Build VQ-Flow."""
    model = build(None, [f"backbone={backbone}"], (SIZE, SIZE))
    randomize_(model)
    return model


def padim() -> Padim:
    """Build PaDiM with statistics of the size that it would have."""
    model = Padim(pre_trained=False, pre_processor=Padim.configure_pre_processor((SIZE, SIZE)))
    num_features, num_cells = model.model.n_features, (SIZE // 4) ** 2
    model.model.gaussian.mean = torch.randn(num_features, num_cells)
    model.model.gaussian.inv_covariance = torch.eye(num_features).repeat(num_cells, 1, 1)
    return model


def patch_core(num_patches: int | None = None) -> Patchcore:
    """Build PatchCore with a memory bank of some size, or of that which it would have."""
    model = Patchcore(pre_trained=False, pre_processor=Patchcore.configure_pre_processor((SIZE, SIZE)))
    if num_patches is None:
        num_patches = int(model.coreset_sampling_ratio * NUM_NORMAL_IMAGES * (SIZE // 8) ** 2)
    model.model.memory_bank = torch.randn(num_patches, sum(model.model.feature_extractor.out_dims))
    return model


def u_flow() -> Uflow:
    """Build U-Flow; its own pre-processor refuses to have any other size than that of its default backbone."""
    with patch("timm.models._builder.load_pretrained"):  # it asks for weights that it would download
        return Uflow(backbone="resnet18", pre_processor=Padim.configure_pre_processor((SIZE, SIZE)))


def with_defaults(kind: type, **arguments: object) -> torch.nn.Module:
    """Build a model of anomalib for images of this size."""
    return kind(**arguments, pre_processor=kind.configure_pre_processor((SIZE, SIZE)))


def export_whole(build_model: Callable[[], torch.nn.Module], folder: Path) -> Path:
    """Export a model as anomalib does."""
    return build_model().eval().to_openvino(folder, onnx_kwargs=ONNX)


def export_single(build_module: Callable[[], torch.nn.Module], folder: Path) -> Path:
    """Export a module for a single image. anomalib (2.7.0, with torch 2.14) fixes PatchCore to batches of two."""
    return export_openvino(build_module().eval(), torch.zeros(IMAGE), folder / "model.xml")


MODELS: dict[str, Callable[[Path], Path]] = {
    f"features alone ({DEFAULT_BACKBONE})": partial(export_single, lambda: vqflow().model.features),
    f"VQ-Flow ({DEFAULT_BACKBONE})": partial(export_whole, vqflow),
    "VQ-Flow (vqflow_tiny)": partial(export_whole, partial(vqflow, "vqflow_tiny")),
    "FastFlow (resnet18)": partial(export_whole, partial(with_defaults, Fastflow, pre_trained=False)),
    "U-Flow (resnet18)": partial(export_whole, u_flow),
    "PaDiM (resnet18)": partial(export_whole, padim),
    "PatchCore (wide_resnet50_2)": partial(export_single, patch_core),
    "PatchCore (wide_resnet50_2), 4,096 patches": partial(export_single, partial(patch_core, 4096)),
    "Reverse Distillation (wide_resnet50_2)": partial(
        export_whole, partial(with_defaults, ReverseDistillation, pre_trained=False)
    ),
    "EfficientAd (small)": partial(export_whole, partial(with_defaults, EfficientAd)),
}


def export_all(names: list[str], folder: Path) -> dict[str, Path]:
    """Export models; one that cannot be exported is named and left out."""
    torch.manual_seed(0)
    paths = {}
    for name in names:
        place = folder / re.sub(r"\W+", "_", name)
        found = next(place.rglob("model.xml"), None)
        try:
            paths[name] = found or MODELS[name](place)
        except Exception as error:  # noqa: BLE001  (the other models are still worth comparing)
            print(f"{name} could not be exported: {type(error).__name__}: {error}", file=sys.stderr)
    return paths


def check(outputs: Mapping[object, np.ndarray]) -> None:
    """Check that the outputs are those of one image.

    Raises:
        RuntimeError: If they are not.
    """
    wrong = [output.shape for output in outputs.values() if output.shape[:1] != (1,) or not np.isfinite(output).all()]
    if wrong:
        msg = f"it gives outputs of shapes {wrong} for one image, or some that are not finite"
        raise RuntimeError(msg)


def latencies(paths: Mapping[str, Path], num_threads: int, rounds: int) -> dict[tuple[str, bool], Times]:
    """Measure models in turn, as exported and (True) fixed to one image; one that does not run is named, left out."""
    image, calls = np.random.default_rng(0).random(IMAGE, dtype=np.float32), {}
    for name, path in paths.items():
        for fixed in (False, True):
            try:
                request = compile_request(path, num_threads, IMAGE if fixed else None)
                check(request.infer({0: image}))
            except RuntimeError as error:
                reason = [line for line in str(error).splitlines() if line.strip()][-1]
                print(f"{name} does not run {'with batch 1' if fixed else 'as exported'}: {reason}", file=sys.stderr)
            else:
                calls[name, fixed] = partial(request.infer, {0: image})
    return take_turns(calls, rounds, WARM_UP)


def print_model(name: str, path: Path, seconds: tuple[float | None, float | None], num_threads: int) -> None:
    """Print a model's line of the table; its times are as exported and fixed to one image."""
    cells = [NOT_EVALUABLE if value is None else f"{1e3 * value:.1f}" for value in seconds]
    fastest = min((value for value in seconds if value is not None), default=None)
    cells.append(NOT_EVALUABLE if fastest is None else f"{1 / fastest:.1f}")
    cells.append(f"{file_size(path):.1f}")
    runs = seconds[0] is not None
    cells.append(f"{peak_memory_of_inference(path, num_threads, IMAGE[2:]):.0f}" if runs else NOT_EVALUABLE)
    print_row(name, *cells)


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of OpenVINO")
    parser.add_argument("--rounds", type=int, default=30, help="measurements of each model")
    parser.add_argument("--only", nargs="+", help="parts of the names of the models to compare")
    parser.add_argument(
        "--models", type=Path, help="folder to keep the exported models in; what is there is used again"
    )
    options = parser.parse_args(arguments)

    names = [name for name in MODELS if options.only is None or any(part in name for part in options.only)]
    with tempfile.TemporaryDirectory() as folder:
        paths = export_all(names, options.models or Path(folder))
        times = latencies(paths, options.threads, options.rounds)
        print_header("model", "ms, as exported", "ms, batch fixed to 1", "images/s", "file, MB", "peak memory, MB")
        alone = peak_memory_of_inference(None, options.threads, IMAGE[2:])
        print_row("OpenVINO alone", "", "", "", "", f"{alone:.0f}")
        for name, path in paths.items():
            exported, fixed = (times.get((name, fixed)) for fixed in (False, True))
            seconds = exported and exported.wall, fixed and fixed.wall
            print_model(name, path, seconds, options.threads)
    print(f"\n{options.threads} threads, {SIZE}×{SIZE}, {options.rounds} rounds, OpenVINO {openvino.__version__}")


if __name__ == "__main__":
    main()
