# SPDX-License-Identifier: Apache-2.0
"""What looking the condition up in tables saves: the same model beside its plain form, in one run.

    python benchmarks/flow_speed.py --config configs/mvtec_ad.yaml --threads 2

The plain form convolves the condition as a map, with the same weights. Weights, codes and features are random; neither
time nor size depends on them. Both forms and the backbone take turns, and times are medians; processor time stands
beside wall time, which other programs disturb. "Flow side" is everything but the backbone, from its maps to the scores.
Outputs are compared in the same run: the largest difference over the range of the plain form's.

- OpenVINO: FP32 exports for any batch size, with batch 1 and the latency hint. Peak memory is that of a process that
  only loads a model and infers.
- Torch: eager inference of the flow side. The first call, which builds the tables, is left out.
- Training: forward, backward and Adam's step from given features. Peak memory is that of a process that only trains.

``--device cuda`` runs the last two on a GPU, and tells its memory. The package itself takes tables on CPUs only.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import openvino
import torch
from measuring import (
    Times,
    compile_request,
    file_size,
    in_new_process,
    peak_memory,
    peak_memory_of_inference,
    print_header,
    print_row,
    take_turns,
)
from models import (
    ONNX,
    Backbone,
    FlowSide,
    add_model_options,
    build,
    dense_conditions,
    draw_features,
    export_openvino,
    randomize_,
)

from anomalib_vqflow import VQFlow
from anomalib_vqflow.condition import convolution, frozen_tables
from anomalib_vqflow.export.openvino import conversion_extensions

CONFIG = Path(__file__).parents[1] / "configs" / "mvtec_ad.yaml"
FORMS = ("plain", "tables")
PARTS = ("torch", "openvino", "training")


def form(model: VQFlow, name: str) -> AbstractContextManager[None]:
    """Let the model convolve its conditions as maps, or look them up in tables."""
    return dense_conditions(model.model) if name == "plain" else nullcontext()


def print_times(title: str, times: Mapping[str, Times], note: str) -> None:
    """Print a row of the table: both forms in ms, and how many times faster the tables are."""
    plain, tables = (times[name] for name in FORMS)
    cells = [f"{1e3 * wall:,.1f} ({1e3 * processor:,.1f})" for wall, processor in (plain, tables)]
    print_row(title, *cells, f"{plain.wall / tables.wall:.2f} ({plain.processor / tables.processor:.2f})", note)


def print_sizes(title: str, plain: float, tables: float) -> None:
    """Print a row of the table: what both forms need, in MB."""
    print_row(title, f"{plain:,.0f}", f"{tables:,.0f}", f"{plain / tables:.2f}", "")


def difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Compare outputs: the largest difference, over the range of what is expected."""
    ranges = [float(np.ptp(values)) or float(np.abs(values).max()) for values in expected]
    return max(float(np.abs(a - b).max()) / size for a, b, size in zip(actual, expected, ranges, strict=True))


def compare_torch(model: VQFlow, batch: int, rounds: int) -> None:
    """Compare eager inference of one image and of a batch."""
    flow_side = FlowSide(model)
    for size in (1, batch):
        details, semantic, _ = draw_features(model, size)
        outputs: dict[str, list[np.ndarray]] = {}

        @torch.no_grad()
        def infer(name: str, maps: tuple = (*details, semantic), outputs: dict = outputs) -> None:
            with form(model, name):
                outputs[name] = [output.numpy(force=True) for output in flow_side(maps)]

        times = take_turns({name: partial(infer, name) for name in FORMS}, rounds)
        error = difference(outputs["tables"], outputs["plain"])
        print_times(f"torch, batch {size}, flow side", times, f"differ by {error:.0e}")


def export_all(model: VQFlow, folder: Path) -> dict[str, Path]:
    """Export flow side and whole model in both forms, and the backbone."""
    details, semantic, _ = draw_features(model, 1)
    maps, images = (*details, semantic), torch.rand(1, 3, *model.input_size)
    paths = {"backbone": export_openvino(Backbone(model), images, folder / "backbone.xml", any_batch=True)}
    flow_side, extension = FlowSide(model), conversion_extensions()
    for name in FORMS:
        with form(model, name):
            with frozen_tables(flow_side, [maps]):
                path = folder / f"flow_{name}.xml"
                export_openvino(flow_side, maps, path, any_batch=True, extension=extension)
            paths[f"flow side, {name}"] = path
            paths[f"whole model, {name}"] = model.to_openvino(folder / name, onnx_kwargs=ONNX)
    return paths


def openvino_calls(model: VQFlow, paths: Mapping[str, Path], num_threads: int) -> dict[str, Callable[[], Mapping]]:
    """Load exported models, each with its inputs."""
    details, semantic, _ = draw_features(model, 1)
    maps, images = (*details, semantic), (torch.rand(1, 3, *model.input_size),)
    calls = {}
    for name, path in paths.items():
        inputs = maps if name.startswith("flow side") else images
        request = compile_request(path, num_threads)
        calls[name] = partial(request.infer, {index: value.numpy() for index, value in enumerate(inputs)})
    return calls


def compare_openvino(model: VQFlow, paths: Mapping[str, Path], num_threads: int, rounds: int) -> None:
    """Compare times and outputs of exported models."""
    calls = openvino_calls(model, paths, num_threads)
    outputs = {name: [o.copy() for o in call().values() if o.dtype == np.float32] for name, call in calls.items()}
    times = take_turns(calls, rounds)
    for part in ("flow side", "whole model"):
        error = difference(outputs[f"{part}, tables"], outputs[f"{part}, plain"])
        of_part = {name: times[f"{part}, {name}"] for name in FORMS}
        print_times(f"OpenVINO, batch 1, {part}", of_part, f"differ by {error:.0e}")
    alone, whole = times["backbone"], [times[f"whole model, {name}"] for name in FORMS]
    title = f"... over its backbone, {1e3 * alone.wall:,.1f} ({1e3 * alone.processor:,.1f})"
    ratios = [f"{wall / alone.wall:.2f} ({processor / alone.processor:.2f})" for wall, processor in whole]
    print_row(title, *ratios, "", "")


def run_openvino(model: VQFlow, num_threads: int, rounds: int) -> None:
    """Export, and compare times, sizes and memory."""
    with tempfile.TemporaryDirectory() as folder:
        paths = export_all(model, Path(folder))
        compare_openvino(model, paths, num_threads, rounds)
        whole = [paths[f"whole model, {name}"] for name in FORMS]
        print_sizes("File, MB", *map(file_size, whole))
        peaks = [peak_memory_of_inference(path, num_threads, model.input_size) for path in whole]
        print_sizes("Peak memory of OpenVINO, MB", *peaks)


class Training:
    """Steps from given features.

    Args:
        model: Model to train.
        batch: Images per step.
    """

    def __init__(self, model: VQFlow, batch: int) -> None:
        self.model = model.train()
        self.features = draw_features(model, batch)
        self.images = self.features.semantic.new_zeros(batch, 3, *model.input_size)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-6)

    def compute_gradients(self) -> None:
        """Compute the gradients of the loss."""
        self.optimizer.zero_grad()
        output = self.model.model(self.images, self.features)
        self.model.loss(output.latents, output.log_dets, output.commitment).total.backward()

    def step(self, name: str) -> None:
        """Take a step in one of the forms."""
        with form(self.model, name):
            self.compute_gradients()
            self.optimizer.step()
            self.parameters[-1].sum().item()  # a GPU has done everything then

    def gradient_error(self) -> float:
        """Compare the gradients of both forms: the largest difference of a parameter's, over its largest entry.

        Gradients that are zero but for rounding, such as those of biases before a batch normalization, are compared
        with a ten thousandth of the largest gradient.
        """
        buffers, found = {name: b.clone() for name, b in self.model.named_buffers()}, []
        for name in FORMS:
            for key, buffer in self.model.named_buffers():
                buffer.copy_(buffers[key])
            torch.manual_seed(0)
            with form(self.model, name):
                self.compute_gradients()
            found.append([p.grad.clone() for p in self.parameters])
        plain, tables = found
        floor = 1e-4 * max(float(a.abs().max()) for a in plain)
        return max(
            float((b - a).abs().max()) / max(float(a.abs().max()), floor) for a, b in zip(plain, tables, strict=True)
        )


def run_training(model: VQFlow, options: argparse.Namespace) -> None:
    """Compare training steps."""
    training = Training(model, options.batch)
    error = training.gradient_error()
    times = take_turns({name: partial(training.step, name) for name in FORMS}, options.training_rounds)
    print_times(f"training step, batch {options.batch}, flow side", times, f"gradients differ by {error:.0e}")
    del training
    same = [*options.pairs, "--config", options.config, "--input-size", *model.input_size]
    same += ["--threads", options.threads, "--batch", options.batch, "--device", options.device]
    print_sizes("Peak memory of training, MB", *(in_new_process(__file__, *same, "--only-train", n) for n in FORMS))


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, CONFIG)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="of inference; half as many in torch")
    parser.add_argument("--training-rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="of training, and the larger one of torch inference")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default; on a GPU without openvino")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of torch and training")
    parser.add_argument("--only-train", choices=FORMS, help=argparse.SUPPRESS)  # this script's own processes
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    convolution.TABLE_DEVICES.add(options.device)
    model = build(options.config, options.pairs, options.input_size)
    randomize_(model)
    model.to(options.device)
    if options.only_train:
        training = Training(model, options.batch)
        for _ in range(2):
            training.step(options.only_train)
        print(torch.cuda.max_memory_allocated() / 1e6 if options.device == "cuda" else peak_memory())
        return
    parts = options.parts or [part for part in PARTS if options.device == "cpu" or part != "openvino"]
    versions = f"torch {torch.__version__}, OpenVINO {openvino.__version__}"
    print(f"{options.config.name}, {options.device}, {options.threads} threads, {versions}\n")
    print_header("ms, wall (processor)", *FORMS, "plain over tables", "")
    if "torch" in parts:
        compare_torch(model, options.batch, max(options.rounds // 2, 2))
    if "openvino" in parts:
        run_openvino(model, options.threads, options.rounds)
    if "training" in parts:
        run_training(model, options)


if __name__ == "__main__":
    main()
