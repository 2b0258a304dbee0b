# SPDX-License-Identifier: Apache-2.0
"""Count what an image costs, room by room: parameters, multiplications, bytes; beside it, on request, the time.

    python benchmarks/cost.py --config configs/mvtec_ad.yaml
    python benchmarks/cost.py --config configs/light_cpu.yaml --input-size 256 256 --measure
    python benchmarks/cost.py backbone=vqflow_tiny hidden_dim=64 flow_steps=[2,4,6] --plain

Arguments of ``VQFlow`` come from a configuration file, from ``name=value`` pairs, or both; the rest are its defaults.
Weights are random. Counted is what torch really executes in eager inference on a CPU, after a first run, in which
tables are made. ``--plain`` spreads the conditions out to maps, so that the flows convolve them like any other map: the
form that the paper describes, with the same weights.

- MACs are multiplications with addition in convolutions and matrix products, counted by torch's own formulas.
- Look-ups are the additions of table rows (``embedding_bag``), in numbers.
- Activations are the bytes that the operators write, all of them, although few exist at the same time.
- Traffic is what the operators read and write, weights and table rows included.

``--measure`` puts a roofline beside the time: the peak of this machine in a large matrix product and its bandwidth in a
large copy. An operator takes at least its FLOPs over the peak or its traffic over the bandwidth, whichever is longer;
the sum over a room's operators is its bound. Time below it means that a cache served what memory was thought to serve.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from anomalib_vqflow import VQFlow, VQFlowModel

REST = "between"
MATRIX = 2048  # side of the matrices of the peak
COPY_FLOATS = 2**26  # 256 MB
LOOK_UPS = {"embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"}  # torch's operators


class Room(NamedTuple):
    """A part of the model, and the calls in which it works."""

    name: str
    modules: list[nn.Module]
    method: str = "forward"


class Backbone(nn.Module):
    """The backbone with its pooling, as the model uses it."""

    def __init__(self, model: VQFlow) -> None:
        super().__init__()
        self.features = model.model.features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all maps."""
        details, semantic = self.features(images)
        return (*details, semantic)


class Operator(NamedTuple):
    """What one operator costs."""

    macs: int
    look_ups: int
    read: int  # bytes
    written: int  # bytes


@dataclass
class Cost:
    """What a room costs per image."""

    parameters: int = 0
    table_bytes: int = 0
    operators: list[Operator] = field(default_factory=list)
    seconds: float = 0.0

    def total(self, name: str) -> int:
        """Sum up one number over the operators."""
        return sum(getattr(operator, name) for operator in self.operators)

    def bound(self, peak: float, bandwidth: float) -> float:
        """Sum up what the operators take at least, in seconds; FLOP per second and bytes per second given."""
        return sum(max(2 * o.macs / peak, (o.read + o.written) / bandwidth) for o in self.operators)


def rooms_of(model: VQFlowModel) -> list[Room]:
    """Name the rooms of a model, in the order of the figure."""
    quantizers = list(model.conditions.quantizers)
    rooms = [Room("backbone", [model.features]), Room("concept", [model.concept])]
    rooms += [Room(f"condition {level}", [quantizer], "quantize") for level, quantizer in enumerate(quantizers)]
    if model.conditions.semantic_quantizer is not None:
        rooms.append(Room("condition, semantic", [model.conditions.semantic_quantizer], "quantize"))
    rooms.append(Room("conditions, shared", [model.conditions]))
    for level, couplings in enumerate(model.flow.scale_flows):
        others = [parts[level] for parts in (model.flow.whitenings, model.flow.gaussians) if len(parts)]
        rooms.append(Room(f"flow {level}, {len(couplings)} couplings", [*couplings, *others], "transform"))
    if model.flow.fusion is not None:
        rooms.append(Room("fusion", [model.flow.fusion], "transform"))
    return [*rooms, Room("map", [model.anomaly_map_generator])]


class Visits:
    """Knows in which room the model is, and how long it was in each."""

    def __init__(self) -> None:
        self.stack = [REST]
        self.seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def move(self, room: str | None) -> None:
        """Enter a room, or leave the current one if none is named."""
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self._since
        self._since = now
        if room is None:
            self.stack.pop()
        else:
            self.stack.append(room)

    def around(self, room: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that works in a room."""

        def wrapped(*arguments: object, **named: object) -> object:
            self.move(room)
            try:
                return call(*arguments, **named)
            finally:
                self.move(None)

        return wrapped


@contextmanager
def watched(rooms: Sequence[Room]) -> Iterator[Visits]:
    """Follow the model through its rooms."""
    visits = Visits()
    calls = [(room, module) for room in rooms for module in room.modules]
    for room, module in calls:
        setattr(module, room.method, visits.around(room.name, getattr(module, room.method)))
    try:
        yield visits
    finally:
        for room, module in calls:
            delattr(module, room.method)  # the class's own is left


@contextmanager
def spread_out(model: VQFlowModel) -> Iterator[None]:
    """Let the conditions be maps, so that the flows convolve them."""

    def dense(_module: nn.Module, _inputs: object, conditions: Any) -> object:  # noqa: ANN401
        maps = [c if isinstance(c, Tensor) else c.dense() for c in (*conditions.details, conditions.semantic)]
        return conditions._replace(details=maps[:-1], semantic=maps[-1])

    handle = model.conditions.register_forward_hook(dense)
    try:
        yield
    finally:
        handle.remove()


class Counter(TorchDispatchMode):
    """Counts operators as they run.

    Args:
        visits: Tells the room.
        costs: Costs by room, to add to.
    """

    def __init__(self, visits: Visits, costs: dict[str, Cost]) -> None:
        super().__init__()
        self.visits = visits
        self.costs = costs
        self._tables: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run an operator and count it; one that is made of others is taken apart."""
        del types
        kwargs = kwargs or {}
        packet = func._overloadpacket  # noqa: SLF001  (as torch's own counter)
        looks_up = packet.__name__ in LOOK_UPS
        if packet not in flop_registry and not looks_up:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func.is_view or not outputs:
            return result
        cost = self.costs[self.visits.stack[-1]]
        look_ups, read = 0, sum(map(_bytes, inputs))
        if looks_up:
            table, rows = inputs[:2]
            outputs = outputs[:1]  # the others are for the gradient
            look_ups = rows.numel() * table.shape[1]
            read = _bytes(rows) + look_ups * table.element_size()
            if table.data_ptr() not in self._tables:
                self._tables.add(table.data_ptr())
                cost.table_bytes += _bytes(table)
        macs = flop_registry[packet](*args, **kwargs, out_val=result) // 2 if packet in flop_registry else 0
        cost.operators.append(Operator(macs, look_ups, read, sum(map(_bytes, outputs))))
        return result


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@torch.no_grad()
def count(model: VQFlowModel, images: Tensor) -> dict[str, Cost]:
    """Count what the model costs for a batch.

    Args:
        model: Model in eval mode.
        images: Normalized images of shape ``(B, 3, H, W)``.

    Returns:
        Costs by room, in order, then what is done between the rooms.
    """
    rooms = rooms_of(model)
    costs = {name: Cost() for name in (*(room.name for room in rooms), REST)}
    seen: set[int] = set()
    for room in rooms:
        for parameter in (p for module in room.modules for p in module.parameters() if id(p) not in seen):
            seen.add(id(parameter))
            costs[room.name].parameters += parameter.numel()
    model(images)
    with watched(rooms) as visits, Counter(visits, costs):
        model(images)
    return costs


@torch.no_grad()
def measure(model: VQFlowModel, images: Tensor, repetitions: int) -> dict[str, float]:
    """Measure the median time in each room, in seconds."""
    model(images)
    runs = []
    for _ in range(repetitions):
        with watched(rooms_of(model)) as visits:
            model(images)
            visits.move(REST)
        runs.append(visits.seconds)
    return {room: statistics.median(run[room] for run in runs) for room in runs[0]}


def peak_flops() -> float:
    """Measure FLOP per second in a large float32 matrix product, the best of several."""
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    return 2 * MATRIX**3 / _best(lambda: a @ b)


def bandwidth() -> float:
    """Measure bytes per second, read and written, in a large copy, the best of several."""
    source = torch.ones(COPY_FLOATS)
    target = torch.zeros_like(source)
    return 2 * _bytes(source) / _best(lambda: target.copy_(source))


def _best(call: Callable[[], object], repetitions: int = 7) -> float:
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def print_table(costs: dict[str, Cost], roofline: tuple[float, float] | None) -> None:
    """Print a Markdown table, with times if a roofline is given, in FLOP and bytes per second."""
    head = ["room", "parameters, M", "GMAC", "look-ups, M", "activations, MB", "tables, MB", "traffic, MB"]
    head += ["ms", "GFLOP/s", "bound, ms", "time / bound"] if roofline else []
    print("|", " | ".join(head), "|")
    print("|---" * len(head) + "|")
    parts = list(costs.values())
    whole = Cost(
        sum(cost.parameters for cost in parts),
        sum(cost.table_bytes for cost in parts),
        [operator for cost in parts for operator in cost.operators],
        sum(cost.seconds for cost in parts),
    )
    for name, cost in {**costs, "all": whole}.items():
        traffic = cost.total("read") + cost.total("written")
        macs = cost.total("macs")
        cells = [name, f"{cost.parameters / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{cost.total('look_ups') / 1e6:.1f}"]
        cells += [f"{size / 1e6:.1f}" for size in (cost.total("written"), cost.table_bytes, traffic)]
        if roofline:
            bound = cost.bound(*roofline)
            cells += [f"{cost.seconds * 1e3:.2f}", f"{2e-9 * macs / max(cost.seconds, 1e-9):.1f}", f"{bound * 1e3:.2f}"]
            cells.append(f"{cost.seconds / bound:.1f}" if bound else "-")
        print("|", " | ".join(cells), "|")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line name the model that :func:`build` builds."""
    parser.add_argument("pairs", nargs="*", metavar="name=value", help="arguments of VQFlow, values as in YAML")
    parser.add_argument("--config", type=Path, help="configuration file, as in configs/")
    parser.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="size of the image in pixels")


def build(config: Path | None, pairs: Sequence[str], input_size: Sequence[int] | None) -> VQFlow:
    """Build a model with random weights.

    Args:
        config: Configuration file with ``model: {init_args: ...}``, if there is one.
        pairs: ``name=value``, with values as in YAML; they go before the file's.
        input_size: Height and width in pixels, before all others.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: If a pair has no ``=``.
    """
    arguments = {} if config is None else yaml.safe_load(config.read_text())["model"].get("init_args", {})
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            msg = f"Expected name=value, such as hidden_dim=64, got {pair!r}."
            raise ValueError(msg)
        arguments[name] = yaml.safe_load(value)
    if input_size is not None:
        arguments["input_size"] = list(input_size)
    torch.manual_seed(0)
    return VQFlow(**{**arguments, "pre_trained": False}).eval()


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--plain", action="store_true", help="convolve the conditions instead of looking them up")
    parser.add_argument("--measure", action="store_true", help="measure times, and this machine's roofline")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--repetitions", type=int, default=7, help="runs of which the median time is taken")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    model = build(options.config, options.pairs, options.input_size)
    images = torch.randn(1, 3, *model.input_size)
    with spread_out(model.model) if options.plain else watched([]):
        costs = count(model.model, images)
        roofline = None
        if options.measure:
            for room, seconds in measure(model.model, images, options.repetitions).items():
                costs[room].seconds = seconds
            roofline = peak_flops(), bandwidth()
    print("One image of {}×{} pixels, float32, torch eager".format(*model.input_size), end="")
    print(", conditions convolved\n" if options.plain else "\n")
    print_table(costs, roofline)
    if roofline:
        peak, speed = (value / 1e9 for value in roofline)
        print(f"\n{options.threads} threads. A matrix product of side {MATRIX}: {peak:.0f} GFLOP/s; ", end="")
        print(f"a copy of {4e-6 * COPY_FLOATS:.0f} MB: {speed:.1f} GB/s, read and written")


if __name__ == "__main__":
    main()
