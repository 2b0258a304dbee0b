# SPDX-License-Identifier: Apache-2.0
"""Our light configuration beside anomalib's models, as exported: time per image, file size, memory.

    python benchmarks/peers.py --threads 2

All are exported to OpenVINO in FP32 for images of 256×256, with anomalib's defaults and random weights, on which
neither time nor size depends. Nothing is downloaded. What deviates or has to be chosen:

- PatchCore's memory bank holds 21,401 patches: 10 % (its default) of those of 209 images, the normal training images of
  one category of MVTec AD, ``bottle``. Its time grows with that number.
- PaDiM's statistics have the size that its defaults give, whatever the number of images.
- PatchCore is exported for a single image, because anomalib's export fixes it to batches of two.
- U-Flow gets the backbone ``resnet18``; its default takes images of 448×448 only.
- VQ-Flow is ``configs/light_cpu.yaml``, also with the package's own backbone; "features alone" is the frozen backbone
  of that configuration, with pooled maps, and nothing else.

VQ-Flow is one model for all products. The others are meant for one product each.

Times are medians over rounds in which all models take turns, on one image, in OpenVINO, with its latency hint and in
float32. "As exported" is what ``OpenVINOInferencer`` does; in the other column, the model was fixed to batch 1 before
it was compiled (``model.reshape``). Peak memory is that of a process that only loads a model, as exported, and infers;
that of OpenVINO without a model is in the first line. A dash is for a model that OpenVINO cannot compile that way.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino

SIZE = 256
WARM_UP = 3
NUM_NORMAL_IMAGES = 209  # normal training images of MVTec AD's bottle
LIGHT = Path(__file__).parents[1] / "configs" / "light_cpu.yaml"
EXPORT = {"verbose": False, "opset_version": 18}  # what torch writes; anomalib would convert it down, and fail noisily


class Times(NamedTuple):
    """Median times per image, in seconds; None for a model that does not run that way."""

    exported: float | None
    fixed: float | None


def vqflow(folder: Path, backbone: str | None = None) -> Path:
    """Export VQ-Flow in its light configuration."""
    return _light(backbone).to_openvino(folder, onnx_kwargs=EXPORT)


def features(folder: Path) -> Path:
    """Export the backbone of the light configuration alone."""
    return _export_single(_light().model.features, folder)


def fastflow(folder: Path) -> Path:
    """Export FastFlow."""
    from anomalib.models import Fastflow

    return _export(Fastflow, folder, pre_trained=False)


def u_flow(folder: Path) -> Path:
    """Export U-Flow."""
    from anomalib.models import Padim, Uflow

    # Its own pre-processor refuses to have any other size than that of its default backbone.
    return _export(Uflow, folder, backbone="resnet18", pre_processor=Padim.configure_pre_processor((SIZE, SIZE)))


def padim(folder: Path) -> Path:
    """Export PaDiM with statistics of the size that it would have."""
    import torch
    from anomalib.models import Padim

    def fill(model: Padim) -> None:
        num_features, num_cells = model.model.n_features, (SIZE // 4) ** 2
        model.model.gaussian.mean = torch.randn(num_features, num_cells)
        model.model.gaussian.inv_covariance = torch.eye(num_features).repeat(num_cells, 1, 1)

    return _export(Padim, folder, fill, pre_trained=False)


def patch_core(folder: Path) -> Path:
    """Export PatchCore, for one image, with a memory bank of the size that it would have.

    anomalib's export (2.7.0, with torch 2.14) fixes PatchCore to batches of two.
    """
    import torch
    from anomalib.models import Patchcore

    model = Patchcore(pre_trained=False, pre_processor=Patchcore.configure_pre_processor((SIZE, SIZE))).eval()
    num_patches = int(model.coreset_sampling_ratio * NUM_NORMAL_IMAGES * (SIZE // 8) ** 2)
    model.model.memory_bank = torch.randn(num_patches, sum(model.model.feature_extractor.out_dims))
    return _export_single(model, folder)


def reverse_distillation(folder: Path) -> Path:
    """Export Reverse Distillation."""
    from anomalib.models import ReverseDistillation

    return _export(ReverseDistillation, folder, pre_trained=False)


def efficient_ad(folder: Path) -> Path:
    """Export EfficientAd."""
    from anomalib.models import EfficientAd

    return _export(EfficientAd, folder)


MODELS: dict[str, Callable[[Path], Path]] = {
    "features alone (mobilenetv2_100)": features,
    "VQ-Flow, light (mobilenetv2_100)": vqflow,
    "VQ-Flow, light (vqflow_tiny)": lambda folder: vqflow(folder, "vqflow_tiny"),
    "FastFlow (resnet18)": fastflow,
    "U-Flow (resnet18)": u_flow,
    "PaDiM (resnet18)": padim,
    "PatchCore (wide_resnet50_2)": patch_core,
    "Reverse Distillation (wide_resnet50_2)": reverse_distillation,
    "EfficientAd (small)": efficient_ad,
}


def _light(backbone: str | None = None) -> "VQFlow":  # noqa: F821  (torch is imported where it is needed)
    import torch
    import yaml

    from anomalib_vqflow import VQFlow

    arguments = yaml.safe_load(LIGHT.read_text())["model"]["init_args"] | {"input_size": [SIZE, SIZE]}
    arguments |= {"pre_trained": False} | ({} if backbone is None else {"backbone": backbone})
    model = VQFlow(**arguments).eval()
    for parameter in model.model.flow.parameters():  # a new flow is the identity
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def _export(kind: type, folder: Path, fill: Callable[..., None] | None = None, **arguments: object) -> Path:
    """Build, fill and export a model of anomalib."""
    arguments.setdefault("pre_processor", kind.configure_pre_processor((SIZE, SIZE)))
    model = kind(**arguments).eval()
    if fill is not None:
        fill(model)
    return model.to_openvino(folder, onnx_kwargs=EXPORT)


def _export_single(model: "nn.Module", folder: Path) -> Path:  # noqa: F821  (torch is imported where it is needed)
    """Export a module for a single image of one size."""
    import torch

    path = folder / "model.xml"
    folder.mkdir(parents=True)
    torch.onnx.export(model, (torch.zeros(1, 3, SIZE, SIZE),), path.with_suffix(".onnx"), dynamo=True, **EXPORT)
    openvino.save_model(openvino.convert_model(path.with_suffix(".onnx")), path, compress_to_fp16=False)
    return path


def export_all(names: list[str], folder: Path) -> dict[str, Path]:
    """Export models, without downloads; one that cannot be exported is named and left out."""
    import timm.models
    import torch

    getattr(timm.models, "_builder").load_pretrained = lambda *_, **__: None  # noqa: B009  (U-Flow asks for weights)
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


def settings(num_threads: int) -> dict[str, object]:
    """Return OpenVINO's settings for exact results at the lowest latency."""
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return {**hints, "INFERENCE_NUM_THREADS": num_threads, "ENABLE_CPU_PINNING": True}


def check(outputs: Mapping[object, np.ndarray]) -> None:
    """Check that the outputs are those of one image.

    Raises:
        RuntimeError: If they are not.
    """
    wrong = [output.shape for output in outputs.values() if output.shape[:1] != (1,) or not np.isfinite(output).all()]
    if wrong:
        msg = f"it gives outputs of shapes {wrong} for one image, or some that are not finite"
        raise RuntimeError(msg)


def latencies(paths: dict[str, Path], num_threads: int, rounds: int) -> dict[str, Times]:
    """Measure models in turn."""
    core, image = openvino.Core(), np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    requests = {}
    for name, path in paths.items():
        for fixed in (False, True):
            model = core.read_model(path)
            try:
                if fixed:
                    model.reshape([1, 3, SIZE, SIZE])
                request = core.compile_model(model, "CPU", settings(num_threads)).create_infer_request()
                check(request.infer({0: image}))
            except RuntimeError as error:
                reason = [line for line in str(error).splitlines() if line.strip()][-1]
                print(f"{name} does not run {'with batch 1' if fixed else 'as exported'}: {reason}", file=sys.stderr)
            else:
                requests[name, fixed] = request
    times: dict[tuple[str, bool], list[float]] = {key: [] for key in requests}
    for number in range(WARM_UP + rounds):
        for key, request in requests.items():
            start = time.perf_counter()
            request.infer({0: image})
            if number >= WARM_UP:
                times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {name: Times(*(medians.get((name, fixed)) for fixed in (False, True))) for name in paths}


def peak_memory(path: Path | None, num_threads: int) -> float:
    """Measure the peak resident memory, in MB, of a process that infers with one model, or only imports OpenVINO."""
    command = [sys.executable, __file__, "--threads", str(num_threads), "--infer", str(path or "")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def infer(path: str, num_threads: int) -> None:
    """Infer with a model and print this process's peak memory in MB."""
    core = openvino.Core()
    if path:
        request = core.compile_model(path, "CPU", settings(num_threads)).create_infer_request()
        for _ in range(WARM_UP):
            request.infer({0: np.zeros((1, 3, SIZE, SIZE), dtype=np.float32)})
    # Not getrusage: its peak begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3)


def print_row(name: str, path: Path, times: Times, num_threads: int) -> None:
    """Print a model's line of the table."""
    cells = ["-" if seconds is None else f"{1e3 * seconds:.1f}" for seconds in times]
    fastest = min((seconds for seconds in times if seconds is not None), default=None)
    cells.append("-" if fastest is None else f"{1 / fastest:.1f}")
    cells.append(f"{sum(file.stat().st_size for file in (path, path.with_suffix('.bin'))) / 1e6:.1f}")
    cells.append("-" if times.exported is None else f"{peak_memory(path, num_threads):.0f}")
    print("|", " | ".join([name, *cells]), "|", flush=True)


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
    parser.add_argument("--infer", metavar="MODEL", help=argparse.SUPPRESS)  # this script's own processes
    options = parser.parse_args(arguments)
    if options.infer is not None:
        infer(options.infer, options.threads)
        return

    names = [name for name in MODELS if options.only is None or any(part in name for part in options.only)]
    with tempfile.TemporaryDirectory() as folder:
        paths = export_all(names, options.models or Path(folder))
        times = latencies(paths, options.threads, options.rounds)
        print("| model | ms, as exported | ms, batch fixed to 1 | images/s | file, MB | peak memory, MB |")
        print("|---|---|---|---|---|---|")
        print(f"| OpenVINO alone | | | | | {peak_memory(None, options.threads):.0f} |")
        for name, path in paths.items():
            print_row(name, path, times[name], options.threads)
    print(f"\n{options.threads} threads, {SIZE}×{SIZE}, {options.rounds} rounds, OpenVINO {openvino.__version__}")


if __name__ == "__main__":
    main()
