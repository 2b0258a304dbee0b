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
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

PARTS = ("openvino", "torch", "training")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "configs" / "mvtec_ad.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="of inference")
    parser.add_argument("--training-rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="of training, and the larger one of torch inference")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only-infer", type=Path, help=argparse.SUPPRESS)  # what the processes for memory do
    parser.add_argument("--only-train", choices=("plain", "tables"), help=argparse.SUPPRESS)
    return parser.parse_args()


ARGUMENTS = parse_arguments()
os.environ["OMP_NUM_THREADS"] = str(ARGUMENTS.threads)  # before torch is imported

import numpy as np  # noqa: E402
import openvino  # noqa: E402

FP32 = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": ARGUMENTS.threads,
    "PERFORMANCE_HINT": "LATENCY",
}


def peak_memory() -> float:
    """Tell the largest resident memory of this process so far, in MB; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage would count the parent's
    return 1024 * int(status.split("VmHWM:")[1].split()[0]) / 1e6


def infer(path: Path) -> None:
    """Load an exported model, infer, and print the peak memory."""
    compiled = openvino.Core().compile_model(path, "CPU", FP32)
    request = compiled.create_infer_request()
    for _ in range(3):
        request.infer([np.random.rand(1, *list(shape)[1:]).astype(np.float32) for shape in _shapes(compiled)])
    print(peak_memory())


def _shapes(compiled: openvino.CompiledModel) -> list[list[int]]:
    size = ARGUMENTS.image_size
    shapes = [[d.get_length() if d.is_static else 0 for d in port.partial_shape] for port in compiled.inputs]
    return [[1, 3, *size] if len(shapes) == 1 and 0 in shape[1:] else shape for shape in shapes]


def load_settings() -> dict:
    """Read the model's arguments from the configuration."""
    import yaml

    settings = yaml.safe_load(ARGUMENTS.config.read_text(encoding="utf-8"))["model"]["init_args"]
    names = ("lr", "lr_schedule", "visualizer")
    return {**{k: v for k, v in settings.items() if k not in names}, "pre_trained": False, "visualizer": False}


ARGUMENTS.image_size = tuple(load_settings()["input_size"])
if ARGUMENTS.only_infer:
    infer(ARGUMENTS.only_infer)
    sys.exit()

import torch  # noqa: E402
from cost import Backbone  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from anomalib_vqflow import VQFlow, export  # noqa: E402
from anomalib_vqflow.discrete import Condition, ConditionedConv2d, frozen_tables  # noqa: E402
from anomalib_vqflow.features import Features  # noqa: E402
from anomalib_vqflow.flows import ConditionalCoupling  # noqa: E402
from anomalib_vqflow.quantization import Codebook  # noqa: E402

torch.set_num_threads(ARGUMENTS.threads)


def make_model() -> VQFlow:
    """Build the configured model, with random codes and flows that do something."""
    torch.manual_seed(0)
    model = VQFlow(**load_settings())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Codebook):
                module.codes.normal_()
                module.code_sums.copy_(module.codes)
                module.code_counts.fill_(1.0)
            if isinstance(module, ConditionalCoupling):
                module.subnet.conv2.weight.normal_(std=0.01)
    return model


def make_features(model: VQFlow, batch: int) -> Features:
    """Draw maps as the backbone would return them."""
    shapes = model.model.features.detail_shapes
    semantic = torch.rand(batch, *model.model.features.semantic_shape)
    return Features([torch.randn(batch, *shape) for shape in shapes], semantic)


class FlowSide(nn.Module):
    """Everything but the backbone, in eval mode."""

    def __init__(self, model: VQFlow) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Score the images that the maps belong to."""
        images = maps[0].new_zeros(maps[0].shape[0], 3, *ARGUMENTS.image_size)
        prediction = self.model(images, Features(list(maps[:-1]), maps[-1]))
        return prediction.pred_score, prediction.anomaly_map


def _plain_forward(self: ConditionedConv2d, x: Tensor, condition: Condition | None = None) -> Tensor:
    if condition is not None:
        x = torch.cat((x, condition if isinstance(condition, Tensor) else condition.dense()), dim=1)
    return nn.Conv2d.forward(self, x)


@contextmanager
def form(name: str) -> Iterator[None]:
    """Let the model compute by table, or as a plain convolution."""
    if name == "tables":
        yield
        return
    with (
        patch.object(ConditionedConv2d, "forward", _plain_forward),
        patch.object(export, "frozen_tables", lambda *_: nullcontext()),
    ):
        yield


def measure(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Let functions take turns; medians of wall and processor time, in ms. The first round does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: tuple(1e3 * statistics.median(t[i] for t in times[name]) for i in (0, 1)) for name in functions}


def show(title: str, plain: tuple[float, float], tables: tuple[float, float], note: str = "") -> None:
    """Print a row of the table."""
    (a, b), (c, d) = plain, tables
    print(f"| {title} | {a:,.1f} ({b:,.1f}) | {c:,.1f} ({d:,.1f}) | {a / c:.2f} ({b / d:.2f}) | {note} |", flush=True)


def difference(actual: list, expected: list) -> float:
    """Compare outputs: the largest difference, over the range of what is expected."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(actual, expected, strict=True)]
    spread = [float(np.ptp(b)) or float(np.abs(b).max()) for _, b in pairs]
    return max(float(np.abs(a - b).max()) / s for (a, b), s in zip(pairs, spread, strict=True))


def convert(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Path:
    """Export a module to OpenVINO, for any batch size."""
    batch = torch.export.Dim("batch")
    doubled = tuple(torch.cat((x, x)) for x in inputs)
    shapes = ({0: batch},) if len(inputs) == 1 else (tuple({0: batch} for _ in inputs),)
    shapes = tuple({0: batch} for _ in inputs) if len(inputs) == 1 else shapes
    onnx = path.with_suffix(".onnx")
    torch.onnx.export(module, doubled, onnx, dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False)
    extension = [export.resize_extension(), export.look_up_extension()]
    openvino.save_model(openvino.convert_model(onnx, extension=extension), path, compress_to_fp16=False)
    for leftover in path.parent.glob(f"{onnx.name}*"):
        leftover.unlink()
    return path


class FreezeWith(nn.Module):
    """Call a module of several inputs with one tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...]) -> object:
        """Hand the inputs on."""
        return self.module(*inputs)


def export_all(model: VQFlow, folder: Path) -> dict[str, Path]:
    """Export flow side and whole model in both forms, and the backbone."""
    model.eval()
    features = make_features(model, 1)
    maps, flow_side, paths = (*features.details, features.semantic), FlowSide(model), {}
    images = torch.rand(1, 3, *ARGUMENTS.image_size)
    paths["backbone"] = convert(Backbone(model), (images,), folder / "backbone.xml")
    for name in ("plain", "tables"):
        with form(name):
            frozen = frozen_tables(FreezeWith(flow_side), [maps]) if name == "tables" else nullcontext()
            with frozen:
                paths[f"flow side, {name}"] = convert(flow_side, maps, folder / f"flow_{name}.xml")
            paths[f"whole model, {name}"] = model.to_openvino(folder / name, onnx_kwargs={"verbose": False})
    return paths


def run_openvino(model: VQFlow, folder: Path) -> None:
    """Compare exported models."""
    paths, core = export_all(model, folder), openvino.Core()
    requests, inputs, outputs = {}, {}, {}
    random = np.random.default_rng(0)
    for name, path in paths.items():
        compiled = core.compile_model(path, "CPU", FP32)
        requests[name] = compiled.create_infer_request()
        kind = name.split(",")[0]
        shapes = _shapes(compiled)
        inputs[name] = inputs.get(kind) or [random.random((1, *shape[1:]), dtype=np.float32) for shape in shapes]
        inputs[kind] = inputs[name]
        requests[name].infer(inputs[name])
        count = range(len(compiled.outputs))
        outputs[name] = [
            requests[name].get_output_tensor(i).data.astype(np.float64)
            for i in count
            if requests[name].get_output_tensor(i).data.dtype == np.float32
        ]
    times = measure(
        {name: lambda r=request, x=inputs[name]: r.infer(x) for name, request in requests.items()}, ARGUMENTS.rounds
    )
    for part in ("flow side", "whole model"):
        error = difference(outputs[f"{part}, tables"], outputs[f"{part}, plain"])
        show(f"OpenVINO, batch 1, {part}", times[f"{part}, plain"], times[f"{part}, tables"], f"differ by {error:.0e}")
    wall, processor = times["backbone"]
    shares = [times[f"whole model, {name}"] for name in ("plain", "tables")]
    print(
        f"| ... over its backbone, {wall:,.1f} ({processor:,.1f}) | "
        + " | ".join(f"{a / wall:.2f} ({b / processor:.2f})" for a, b in shares)
        + " | | |"
    )
    names = ("whole model, plain", "whole model, tables")
    sizes = [sum(f.stat().st_size for f in paths[name].parent.glob(f"{paths[name].stem}.*")) / 1e6 for name in names]
    print(f"| File, MB | {sizes[0]:,.0f} | {sizes[1]:,.0f} | {sizes[0] / sizes[1]:.2f} | {sizes[1] / sizes[0]:.3f} |")
    requests.clear()
    peaks = [in_new_process("--only-infer", str(paths[name])) for name in names]
    print(
        f"| Peak memory of OpenVINO, MB | {peaks[0]:,.0f} | {peaks[1]:,.0f} | {peaks[0] / peaks[1]:.2f} | |", flush=True
    )


def run_torch(model: VQFlow) -> None:
    """Compare eager inference."""
    flow_side = FlowSide(model.eval())
    for batch in (1, ARGUMENTS.batch):
        features, outputs = make_features(model, batch), {}

        @torch.no_grad()
        def call(name: str, features: Features = features, outputs: dict = outputs) -> None:
            with form(name):
                outputs[name] = flow_side(*features.details, features.semantic)

        times = measure({name: lambda n=name: call(n) for name in ("plain", "tables")}, max(ARGUMENTS.rounds // 2, 2))
        error = difference(outputs["tables"], outputs["plain"])
        show(f"torch, batch {batch}, flow side", times["plain"], times["tables"], f"differ by {error:.0e}")


class Training:
    """Steps from given features.

    Args:
        model: Model to train.
    """

    def __init__(self, model: VQFlow) -> None:
        self.model = model.train()
        self.features = make_features(model, ARGUMENTS.batch)
        self.images = torch.zeros(ARGUMENTS.batch, 3, *ARGUMENTS.image_size)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-6)

    def gradients(self) -> None:
        """Compute loss and gradients."""
        self.optimizer.zero_grad()
        output = self.model.model(self.images, self.features)
        self.model.loss(output.latents, output.log_det, output.commitment).total.backward()

    def step(self, name: str) -> None:
        """Take a step in one of the forms."""
        with form(name):
            self.gradients()
            self.optimizer.step()

    def gradient_error(self) -> float:
        """Compare the gradients of both forms: the largest difference of a parameter's, over its largest entry.

        Gradients that are zero but for rounding, such as those of biases before a batch normalization, are compared
        with a ten thousandth of the largest gradient.
        """
        buffers, found = {name: b.clone() for name, b in self.model.named_buffers()}, []
        for name in ("plain", "tables"):
            for key, buffer in self.model.named_buffers():
                buffer.copy_(buffers[key])
            torch.manual_seed(0)
            with form(name):
                self.gradients()
            found.append([p.grad.clone() for p in self.parameters])
        plain, tables = found
        floor = 1e-4 * max(float(a.abs().max()) for a in plain)
        return max(
            float((b - a).abs().max()) / max(float(a.abs().max()), floor) for a, b in zip(plain, tables, strict=True)
        )


def run_training(model: VQFlow) -> None:
    """Compare training steps."""
    training = Training(model)
    error = training.gradient_error()
    times = measure({n: lambda n=n: training.step(n) for n in ("plain", "tables")}, ARGUMENTS.training_rounds)
    title = f"training step, batch {ARGUMENTS.batch}, flow side"
    show(title, times["plain"], times["tables"], f"gradients differ by {error:.0e}")
    peaks = [in_new_process("--only-train", name) for name in ("plain", "tables")]
    print(
        f"| Peak memory of training, MB | {peaks[0]:,.0f} | {peaks[1]:,.0f} | {peaks[0] / peaks[1]:.2f} | |", flush=True
    )


def in_new_process(option: str, value: str) -> float:
    """Run this script with a hidden option, and return the number that it prints last."""
    command = [sys.executable, __file__, "--config", str(ARGUMENTS.config), "--threads", str(ARGUMENTS.threads)]
    command += ["--batch", str(ARGUMENTS.batch), option, value]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    """Run what the command line asks for."""
    if ARGUMENTS.only_train:
        training = Training(make_model())
        for _ in range(2):
            training.step(ARGUMENTS.only_train)
        print(peak_memory())
        return
    print(f"{ARGUMENTS.config.name}, {ARGUMENTS.threads} threads, torch {torch.__version__}, {openvino.__version__}")
    print("| ms, wall (processor) | plain | tables | plain over tables | |\n|---|--:|--:|--:|---|", flush=True)
    model = make_model()
    if "torch" in ARGUMENTS.parts:
        run_torch(model)
    if "openvino" in ARGUMENTS.parts:
        with tempfile.TemporaryDirectory() as folder:
            run_openvino(model, Path(folder))
    if "training" in ARGUMENTS.parts:
        run_training(model)


if __name__ == "__main__":
    main()
