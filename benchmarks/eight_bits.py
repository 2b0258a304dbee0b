# SPDX-License-Identifier: Apache-2.0
"""What eight bits save: a model exported as INT8_PTQ beside FP32 and beside its backbone alone, in one run.

    python benchmarks/eight_bits.py --config configs/mvtec_ad.yaml use_whitening=true

Arguments of ``VQFlow`` come from a configuration file, from ``name=value`` pairs, or both. Weights are random; time and
size do not depend on them, nor on the few generated images that calibrate. Without whitening, the backbone stays in
FP32. What eight bits cost in accuracy, `precision_cost.py` tells.

All take turns, one image at a time, and times are medians; processor time stands beside wall time, which other programs
disturb. Every model computes in the type it was exported in, not in the bfloat16 that OpenVINO prefers where the CPU
has it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import openvino
import torch
from anomalib.deploy import CompressionType
from cost import Backbone, add_model_options, build
from peers import settings

from anomalib_vqflow import SyntheticProducts, VQFlow

QUIET = {"verbose": False}  # torch's exporter


def export_all(model: VQFlow, folder: Path) -> dict[str, Path]:
    """Export the backbone, and the whole model in both types, for one image of the model's size."""
    size = model.input_size
    backbone = folder / "backbone.onnx"
    body = Backbone(model).eval()
    torch.onnx.export(body, (torch.zeros(1, 3, *size),), backbone, dynamo=True, opset_version=18, **QUIET)
    few = {"num_train": 2, "num_test_good": 2, "num_test_defective": 2, "num_workers": 0, "eval_batch_size": 1}
    images = SyntheticProducts(folder, ["cap"], size, **few)
    quantized = {"compression_type": CompressionType.INT8_PTQ, "datamodule": images}
    return {
        "backbone, FP32": backbone,
        "whole model, FP32": model.to_openvino(folder / "fp32", input_size=size, onnx_kwargs=QUIET),
        "whole model, INT8_PTQ": model.to_openvino(folder / "int8", input_size=size, onnx_kwargs=QUIET, **quantized),
    }


def latencies(
    paths: dict[str, Path], size: tuple[int, int], num_threads: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Let exported models take turns; medians of wall and processor time, in ms. The first round does not count."""
    core, requests = openvino.Core(), {}
    for name, path in paths.items():
        model = core.read_model(path)
        model.reshape([1, 3, *size])
        requests[name] = core.compile_model(model, "CPU", settings(num_threads)).create_infer_request()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for turn in range(rounds + 1):
        for name, request in requests.items():
            image = np.random.default_rng(turn).random((1, 3, *size), dtype=np.float32)
            wall, processor = time.perf_counter(), time.process_time()
            request.infer([image])
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: tuple(1e3 * statistics.median(t[i] for t in times[name]) for i in (0, 1)) for name in paths}


def main(arguments: list[str] | None = None) -> None:
    """Export, measure and print a table.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        model = build(options.config, options.pairs, options.input_size)
        paths = export_all(model, Path(folder))
        times = latencies(paths, model.input_size, options.threads, options.rounds)
        print(f"{options.threads} threads, OpenVINO {openvino.__version__}\n")
        print("|  | ms, wall (processor) | over the backbone | MB |\n|---|--:|--:|--:|")
        backbone_wall, backbone_processor = times["backbone, FP32"]
        for name, (wall, processor) in times.items():
            ratios = f"{wall / backbone_wall:.2f} ({processor / backbone_processor:.2f})"
            size = sum(file.stat().st_size for file in paths[name].parent.glob(f"{paths[name].stem}.*")) / 1e6
            print(f"| {name} | {wall:,.1f} ({processor:,.1f}) | {ratios} | {size:,.1f} |")


if __name__ == "__main__":
    main()
