# SPDX-License-Identifier: Apache-2.0
"""Count what an image costs, module by module: parameters, multiplications, bytes; beside it, on request, the time.

    python benchmarks/cost.py --config configs/mvtec_ad.yaml
    python benchmarks/cost.py --input-size 512 512 --measure
    python benchmarks/cost.py backbone=vqflow_tiny hidden_dim=128 --plain

Arguments of ``VQFlow`` come from a configuration file, from ``name=value`` pairs, or both; the rest are its defaults.
Weights are random. Counted is what torch really executes in eager inference on a CPU, after a first run, in which
tables are made. ``--plain`` makes the conditions maps, which the flows convolve like any other map: the form that the
paper describes, with the same weights.

- MACs are multiplications with addition in convolutions and matrix products, by the formulas of torch's FLOP counter.
- Table lookups are the additions of table rows (``embedding_bag``), in numbers; they are no MACs.
- Activations are the bytes that the operators write, all of them, although few exist at the same time.
- Traffic is what the operators read and write, weights and table rows included.

``--measure`` puts a roofline beside the time: the peak of this machine in a large matrix product and its bandwidth in a
large copy. An operator takes at least its FLOPs over the peak or its traffic over the bandwidth, whichever is longer;
the sum over a module's operators is its bound. Time below it means that a cache served what memory was thought to
serve.
"""

import argparse
import statistics
import time
import timeit
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from measuring import print_header, print_row
from models import add_model_options, build, dense_conditions
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from anomalib_vqflow import VQFlowModel
from anomalib_vqflow.flows import ConditionalCoupling

BETWEEN = "between"
MATRIX = 2048  # side of the matrices of the peak
COPY_FLOATS = 2**26  # 256 MB
LOOKUPS = {"embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"}  # torch's operators


class Operator(NamedTuple):
    """What one operator costs."""

    macs: int
    lookups: int
    read: int  # bytes
    written: int  # bytes


@dataclass
class Cost:
    """What a module costs per image."""

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


def modules_of(model: VQFlowModel) -> dict[str, nn.Module]:
    """Name the modules to tell apart, in the order of the figure; one may be inside of another."""
    modules = {"backbone": model.features, "concept": model.concept}
    modules |= {f"condition {level}": quantizer for level, quantizer in enumerate(model.conditions.quantizers)}
    if model.conditions.semantic_quantizer is not None:
        modules["condition, semantic"] = model.conditions.semantic_quantizer
    modules["conditions, shared"] = model.conditions
    for level, steps in enumerate(model.flow.levels):
        num_couplings = sum(isinstance(step, ConditionalCoupling) for step in steps.module_list)
        modules[f"flow {level}, {num_couplings} couplings"] = steps
    if model.flow.fusion is not None:
        modules["fusion"] = model.flow.fusion
    return modules | {"map": model.anomaly_map_generator}


class Tracker:
    """Knows which of some modules is running, and how long each of them ran; between ``with`` and its end.

    Args:
        modules: Modules by name. Inside of one of them, another one may run; its time counts for that one only.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._modules = modules
        self._running = [BETWEEN]

    @property
    def current(self) -> str:
        """Name of the module that is running, the innermost one."""
        return self._running[-1]

    def __enter__(self) -> "Tracker":
        """Register forward hooks, and start the clock."""
        self._hooks = []
        for name, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)))
            self._hooks.append(module.register_forward_hook(lambda *_: self._leave()))
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clock, and remove the hooks."""
        self._stop()
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str) -> None:
        self._stop()
        self._running.append(name)

    def _leave(self) -> None:
        self._stop()
        self._running.pop()

    def _stop(self) -> None:
        now = time.perf_counter()
        self.seconds[self.current] += now - self._since
        self._since = now


class Counter(TorchDispatchMode):
    """Counts operators as they run; torch's ``FlopCounterMode`` finds the same MACs, but counts no bytes.

    Args:
        tracker: Tells the module.
        costs: Costs by module, to add to.
    """

    def __init__(self, tracker: Tracker, costs: dict[str, Cost]) -> None:
        super().__init__()
        self.tracker = tracker
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
        if packet not in flop_registry and packet.__name__ not in LOOKUPS:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func.is_view or not outputs:
            return result
        cost = self.costs[self.tracker.current]
        if packet.__name__ in LOOKUPS:
            cost.operators.append(self._lookup(cost, *inputs[:2], outputs[0]))  # the others are for the gradient
        else:
            macs = flop_registry[packet](*args, **kwargs, out_val=result) // 2 if packet in flop_registry else 0
            cost.operators.append(Operator(macs, 0, sum(map(_bytes, inputs)), sum(map(_bytes, outputs))))
        return result

    def _lookup(self, cost: Cost, table: Tensor, rows: Tensor, result: Tensor) -> Operator:
        """Count the rows that are read of a table, and the table itself at its first use."""
        if table.data_ptr() not in self._tables:
            self._tables.add(table.data_ptr())
            cost.table_bytes += _bytes(table)
        lookups = rows.numel() * table.shape[1]
        return Operator(0, lookups, _bytes(rows) + lookups * table.element_size(), _bytes(result))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@torch.no_grad()
def count(model: VQFlowModel, images: Tensor) -> dict[str, Cost]:
    """Count what the model costs for a batch.

    Args:
        model: Model in eval mode.
        images: Normalized images of shape ``(B, 3, H, W)``.

    Returns:
        Costs by module, in order, then what is done between the modules.
    """
    modules = modules_of(model)
    costs = {name: Cost() for name in (*modules, BETWEEN)}
    seen: set[int] = set()
    for name, module in modules.items():
        for parameter in (p for p in module.parameters() if id(p) not in seen):
            seen.add(id(parameter))
            costs[name].parameters += parameter.numel()
    model(images)
    with Tracker(modules) as tracker, Counter(tracker, costs):
        model(images)
    return costs


@torch.no_grad()
def measure(model: VQFlowModel, images: Tensor, repetitions: int) -> dict[str, float]:
    """Measure the median time in each module, in seconds."""
    model(images)
    runs = []
    for _ in range(repetitions):
        with Tracker(modules_of(model)) as tracker:
            model(images)
        runs.append(tracker.seconds)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def peak_flops() -> float:
    """Measure FLOP per second in a large float32 matrix product, the best of several."""
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    return 2 * MATRIX**3 / min(timeit.repeat(lambda: a @ b, number=1, repeat=7))


def bandwidth() -> float:
    """Measure bytes per second, read and written, in a large copy, the best of several."""
    source = torch.ones(COPY_FLOATS)
    target = torch.zeros_like(source)
    return 2 * _bytes(source) / min(timeit.repeat(lambda: target.copy_(source), number=1, repeat=7))


def print_table(costs: dict[str, Cost], roofline: tuple[float, float] | None) -> None:
    """Print a Markdown table, with times if a roofline is given, in FLOP and bytes per second."""
    head = ["module", "parameters, M", "GMAC", "table lookups, M", "activations, MB", "tables, MB", "traffic, MB"]
    print_header(*head, *(["ms", "GFLOP/s", "bound, ms", "time / bound"] if roofline else []))
    values = list(costs.values())
    whole = Cost(
        sum(cost.parameters for cost in values),
        sum(cost.table_bytes for cost in values),
        [operator for cost in values for operator in cost.operators],
        sum(cost.seconds for cost in values),
    )
    for name, cost in {**costs, "all": whole}.items():
        traffic = cost.total("read") + cost.total("written")
        macs = cost.total("macs")
        cells = [name, f"{cost.parameters / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{cost.total('lookups') / 1e6:.1f}"]
        cells += [f"{size / 1e6:.1f}" for size in (cost.total("written"), cost.table_bytes, traffic)]
        if roofline:
            bound = cost.bound(*roofline)
            cells += [f"{cost.seconds * 1e3:.2f}", f"{2e-9 * macs / max(cost.seconds, 1e-9):.1f}", f"{bound * 1e3:.2f}"]
            cells.append(f"{cost.seconds / bound:.1f}" if bound else "-")
        print_row(*cells)


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
    roofline = (peak_flops(), bandwidth()) if options.measure else None
    with dense_conditions(model.model) if options.plain else nullcontext():
        costs = count(model.model, images)
        if roofline:
            for name, seconds in measure(model.model, images, options.repetitions).items():
                costs[name].seconds = seconds
    print("One image of {}×{} pixels, float32, torch eager".format(*model.input_size), end="")
    print(", conditions convolved\n" if options.plain else "\n")
    print_table(costs, roofline)
    if roofline:
        peak, speed = (value / 1e9 for value in roofline)
        print(f"\n{options.threads} threads. A matrix product of side {MATRIX}: {peak:.0f} GFLOP/s; ", end="")
        print(f"a copy of {4e-6 * COPY_FLOATS:.0f} MB: {speed:.1f} GB/s, read and written")


if __name__ == "__main__":
    main()
