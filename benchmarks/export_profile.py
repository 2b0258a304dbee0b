# SPDX-License-Identifier: Apache-2.0
"""Where an exported model spends its time: by module, and by kind of operator outside of the backbone.

    python benchmarks/export_profile.py
    python benchmarks/export_profile.py --config configs/mvtec_ad.yaml use_whitening=true --threads 2

Arguments of ``VQFlow`` come from a configuration file, from ``name=value`` pairs, or both; the rest are its defaults.
Weights are random. The model is exported in FP32 for images of its size, and OpenVINO counts the time of each operator
that it executes, which may be several of the model's; those whose names it loses count to the module of their input.
The sum is a little less than the time of an image, because nothing counts what lies between the operators.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino
from measuring import compile_request, print_header, print_row
from models import ONNX, add_model_options, build, randomize_

PARTS = {
    "backbone": "model.features",
    "concept": "model.concept",
    "conditions (patterns)": "model.conditions",
    "flow, level 1": "model.flow.levels.0",
    "flow, level 2": "model.flow.levels.1",
    "flow, level 3": "model.flow.levels.2",
    "flow, fusion": "model.flow.fusion",
    "anomaly map and score": "model.anomaly_map_generator",
}
REST = "normalization of images, post-processing, ..."
WARM_UP = 5


class Operator(NamedTuple):
    """An operator that OpenVINO executes."""

    part: str
    kind: str
    milliseconds: float


def told(node: openvino.Node, key: str) -> str:
    """Read what OpenVINO tells about an operator that it executes."""
    return str(node.get_rt_info()[key].astype(str))


def module_of(node: openvino.Node) -> str:
    """Find the module that an operator comes from, by its names, or else by those of what it reads."""
    while True:
        for name in told(node, "originalLayersNames").split(","):
            path, slash, _ = name.partition("/")
            if slash:
                return path
        if not node.get_input_size():
            return ""
        node = node.input_value(0).get_node()


def part_of(module: str) -> str:
    """Name the part of the model that a module belongs to."""
    return next((part for part, path in PARTS.items() if f"{module}.".startswith(f"{path}.")), REST)


def profile(path: Path, size: tuple[int, int], num_threads: int, rounds: int) -> list[Operator]:
    """Measure every operator of an exported model, on average over some images.

    Args:
        path: The model.
        size: Height and width of the images.
        num_threads: Threads of OpenVINO.
        rounds: Number of images.

    Returns:
        What was executed.
    """
    request = compile_request(path, num_threads, (1, 3, *size), PERF_COUNT=True)
    image = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    for _ in range(WARM_UP + rounds):
        request.infer({0: image})
    nodes = request.get_compiled_model().get_runtime_model().get_ops()
    times = [told(node, "execTimeMcs") for node in nodes]
    return [
        Operator(part_of(module_of(node)), told(node, "layerType"), float(time) / 1000)
        for node, time in zip(nodes, times, strict=True)
        if time.isdigit()  # else it was not executed
    ]


def main(arguments: list[str] | None = None) -> None:
    """Export, measure and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="threads of OpenVINO")
    parser.add_argument("--rounds", type=int, default=50, help="images of which the mean time is taken")
    options = parser.parse_args(arguments)
    model = build(options.config, options.pairs, options.input_size)
    randomize_(model)
    with tempfile.TemporaryDirectory() as folder:
        path = model.to_openvino(folder, input_size=model.input_size, onnx_kwargs=ONNX)
        operators = profile(path, model.input_size, options.threads, options.rounds)
    print_profile(operators)


def print_profile(operators: list[Operator]) -> None:
    """Print both tables."""
    by_part, by_kind, number = Counter[str](), Counter[str](), Counter[str]()
    for operator in operators:
        by_part[operator.part] += operator.milliseconds
        if operator.part != "backbone":
            by_kind[operator.kind] += operator.milliseconds
            number[operator.kind] += 1
    total, backbone = by_part.total(), by_part["backbone"]
    print_header("part", "ms", "over the backbone")
    for place in (*PARTS, REST):
        print_row(place, f"{by_part[place]:.2f}", f"{by_part[place] / backbone:.2f}")
    print_row("all", f"{total:.2f}", f"{total / backbone:.2f}")
    print()
    print_header("operators outside of the backbone", "number", "ms", "share")
    for kind, milliseconds in by_kind.most_common():
        print_row(kind, str(number[kind]), f"{milliseconds:.2f}", f"{milliseconds / (total - backbone):.0%}")


if __name__ == "__main__":
    main()
