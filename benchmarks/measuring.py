# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: taking turns, medians, memory, an AUROC, exported models, rows of Markdown tables.

Run as a script, it tells the peak memory of a process that does nothing but infer with one exported model.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import openvino
from numpy.typing import ArrayLike

Key = TypeVar("Key")

INFERENCES = 3  # before the peak memory is read
NOT_EVALUABLE = "\N{EN DASH}"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
"""Arguments of an engine that says nothing of a training."""


class Times(NamedTuple):
    """Median times of a function, in seconds; other programs disturb the first, hardly the second."""

    wall: float
    processor: float


def take_turns(functions: Mapping[Key, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[Key, Times]:
    """Let functions take turns, so that what else the machine does meets all of them.

    Args:
        functions: What to time, by name.
        rounds: Calls of each that count.
        warm_up: Calls of each before those.

    Returns:
        Median times by name.
    """
    times: dict[Key, list[Times]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            if turn >= warm_up:
                times[name].append(Times(time.perf_counter() - wall, time.process_time() - processor))
    return {name: Times(*map(statistics.median, zip(*values, strict=True))) for name, values in times.items()}


def peak_memory() -> float:
    """Tell the largest resident memory of this process so far, in MB; Linux only."""
    # Not getrusage: its peak begins with the memory of the process that started this one.
    return _memory("VmHWM") / 1e6


def resident_memory() -> float:
    """Tell the memory of this process that is in use, in MiB; Linux only."""
    return _memory("VmRSS") / 2**20


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def auroc(negative: ArrayLike, positive: ArrayLike) -> float:
    """Tell how often a score of one group is higher than one of another; half of a tie counts.

    Args:
        negative: Scores of the group that should be lower, shape ``(N,)``.
        positive: Scores of the other, shape ``(M,)``.
    """
    from sklearn.metrics import roc_auc_score  # not above: this module measures the memory of small processes

    labels = np.repeat([0, 1], [len(np.asarray(negative)), len(np.asarray(positive))])
    return float(roc_auc_score(labels, np.concatenate([negative, positive])))


def in_new_process(script: str, *arguments: object) -> float:
    """Run a script in a process of its own, and return the number that it prints last."""
    command = [sys.executable, script, *map(str, arguments)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def peak_memory_of_inference(path: Path | None, num_threads: int, input_size: Sequence[int]) -> float:
    """Measure the peak memory of a new process that infers with an exported model, in MB.

    Args:
        path: The model; None for a process that only imports OpenVINO.
        num_threads: Threads of OpenVINO.
        input_size: Height and width of the image in pixels.
    """
    model = [] if path is None else ["--model", path]
    return in_new_process(__file__, *model, "--threads", num_threads, "--input-size", *input_size)


def compile_request(
    path: Path, num_threads: int, shape: Sequence[int] | None = None, **settings: object
) -> openvino.InferRequest:
    """Compile an exported model for exact results at the lowest latency.

    It computes in the type that it was exported in, not in the bfloat16 that OpenVINO prefers where the CPU has it.

    Args:
        path: The model.
        num_threads: Threads of OpenVINO.
        shape: Only shape of the input; None to leave it as exported.
        settings: Further settings of OpenVINO.

    Returns:
        What infers.
    """
    core = openvino.Core()
    model = core.read_model(path)
    if shape is not None:
        model.reshape(list(shape))
    exact = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
    return core.compile_model(model, "CPU", {**exact, **settings}).create_infer_request()


def file_size(path: Path) -> float:
    """Add up the files of an exported model, in MB: its graph, and its weights beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6


def print_row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(cells), "|", flush=True)


def print_header(*names: str) -> None:
    """Print the head of a Markdown table."""
    print_row(*names)
    print("|---" * len(names) + "|", flush=True)


def three_decimals(value: float) -> str:
    """Write a number, such as ``0.912``; a dash for NaN, which is not evaluable."""
    return NOT_EVALUABLE if value != value else f"{value:.3f}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write the mean and the deviation of the sample (n - 1), such as ``0.912 ± 0.004``.

    Args:
        values: One value per training; a dash is written if one is NaN, which is not evaluable.
    """
    mean = three_decimals(statistics.fmean(values))
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 and mean != NOT_EVALUABLE else mean


def main(arguments: list[str] | None = None) -> None:
    """Infer with a model, and print this process's peak memory in MB.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="exported model; none to measure OpenVINO alone")
    parser.add_argument("--threads", type=int, default=1, help="threads of OpenVINO")
    parser.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), default=(256, 256))
    options = parser.parse_args(arguments)
    if options.model is not None:
        request = compile_request(options.model, options.threads)
        for _ in range(INFERENCES):
            request.infer({0: np.zeros((1, 3, *options.input_size), dtype=np.float32)})
    print(peak_memory())


if __name__ == "__main__":
    main()
