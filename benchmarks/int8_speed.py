# SPDX-License-Identifier: Apache-2.0
"""What INT8 saves: a model exported as INT8_PTQ beside FP32 and beside its backbone alone, in one run.

    python benchmarks/int8_speed.py --config configs/mvtec_ad.yaml use_whitening=true

Arguments of ``VQFlow`` come from a configuration file, from ``name=value`` pairs, or both; the rest are its defaults.
Weights are random; time and size do not depend on them, nor on the few generated images that calibrate. Without
whitening, the backbone stays in FP32. What INT8 costs in accuracy, `compression_accuracy.py` tells.

All take turns, one image at a time, and times are medians; processor time stands beside wall time, which other programs
disturb. Every model computes in the type that it was exported in, not in the bfloat16 that OpenVINO prefers where the
CPU has it.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import openvino
import torch
from anomalib.deploy import CompressionType
from measuring import compile_request, file_size, print_header, print_row, take_turns
from models import ONNX, Backbone, add_model_options, build, export_openvino

from anomalib_vqflow import SyntheticProducts, VQFlow

BACKBONE = "backbone, FP32"


def export_all(model: VQFlow, folder: Path) -> dict[str, Path]:
    """Export the backbone, and the whole model in both types, for images of the model's size."""
    size = model.input_size
    few = {"num_train": 2, "num_test_good": 2, "num_test_defective": 2, "num_workers": 0, "eval_batch_size": 1}
    images = SyntheticProducts(folder, ["cap"], size, **few)
    quantized = {"compression_type": CompressionType.INT8_PTQ, "datamodule": images}
    return {
        BACKBONE: export_openvino(Backbone(model), torch.zeros(1, 3, *size), folder / "backbone.xml"),
        "whole model, FP32": model.to_openvino(folder / "fp32", input_size=size, onnx_kwargs=ONNX),
        "whole model, INT8_PTQ": model.to_openvino(folder / "int8", input_size=size, onnx_kwargs=ONNX, **quantized),
    }


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

    model = build(options.config, options.pairs, options.input_size)
    with tempfile.TemporaryDirectory() as folder:
        paths = export_all(model, Path(folder))
        shape = (1, 3, *model.input_size)
        requests = {name: compile_request(path, options.threads, shape) for name, path in paths.items()}
        image = torch.rand(shape).numpy()
        times = take_turns({name: partial(r.infer, [image]) for name, r in requests.items()}, options.rounds)
        print(f"{options.threads} threads, OpenVINO {openvino.__version__}\n")
        print_header("", "ms, wall (processor)", "over the backbone", "MB")
        alone = times[BACKBONE]
        for name, (wall, processor) in times.items():
            milliseconds = f"{1e3 * wall:,.1f} ({1e3 * processor:,.1f})"
            ratios = f"{wall / alone.wall:.2f} ({processor / alone.processor:.2f})"
            print_row(name, milliseconds, ratios, f"{file_size(paths[name]):,.1f}")


if __name__ == "__main__":
    main()
