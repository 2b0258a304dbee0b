# SPDX-License-Identifier: Apache-2.0
"""From a YAML file to the runs that it asks for: method × backbone × data × seed, each fully defined.

The file's form is described in ``docs/accuracy.md``; ``smoke.yaml`` is a small example.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

KEYS = {"input_size", "seeds", "trainer", "backbones", "data", "methods"}
METHOD_KEYS = {
    "class_path",
    "init_args",
    "backbones",
    "backbone_arguments",
    "per_category",
    "input_size",
    "seeds",
    "trainer",
}
DATA_KEYS = {"class_path", "init_args", "seed_images"}


class Run(NamedTuple):
    """One training with its test.

    Attributes:
        method: Name of the method in the file.
        backbone: Name of the backbone, as timm or torchvision know it.
        data: Name of the data in the file.
        seed: Seed of the weights and of the order of images.
        definition: All that the result depends on, but the code.
    """

    method: str
    backbone: str
    data: str
    seed: int
    definition: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells this run from others: a digest of its definition, not of the names that the file gives it."""
        text = json.dumps(self.definition, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """Name the run for people."""
        return f"{self.method} / {self.backbone} / {self.data} / seed {self.seed}"


def read_plan(path: Path) -> list[Run]:
    """Read the runs that a file asks for, seed by seed, so that a first table is there early.

    Args:
        path: YAML file.

    Returns:
        The runs.

    Raises:
        ValueError: If a key is unknown or missing, a method names a backbone that the file does not, or two entries
            define the same run.
    """
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_keys(plan, KEYS, {"data", "methods", "backbones"}, str(path))
    for kind, known, needed in (
        ("methods", METHOD_KEYS, {"class_path", "backbones"}),
        ("data", DATA_KEYS, {"class_path"}),
    ):
        for name, entry in plan[kind].items():
            _check_keys(entry, known, needed, f"{kind}.{name} of {path}")
    runs = sorted(_runs(plan), key=lambda run: run.seed)
    names: dict[str, Run] = {}
    for run in runs:
        if run.key in names:
            msg = f"{path} defines the same run twice: {names[run.key]} and {run}. Remove one."
            raise ValueError(msg)
        names[run.key] = run
    return runs


def _runs(plan: Mapping[str, Any]) -> Iterator[Run]:
    for data_name, data in plan["data"].items():
        for method_name, method in plan["methods"].items():
            for backbone, arguments in method["backbones"].items():
                if backbone not in plan["backbones"]:
                    msg = f"{method_name} runs on {backbone!r}, but `backbones` has {list(plan['backbones'])}. Add it."
                    raise ValueError(msg)
                names = dict.fromkeys(method.get("backbone_arguments", ["backbone"]), backbone)
                for seed in method.get("seeds", plan.get("seeds", [0])):
                    definition = {
                        "class_path": method["class_path"],
                        "init_args": {**method.get("init_args", {}), **names, **(arguments or {})},
                        "weights": plan["backbones"][backbone],
                        "input_size": method.get("input_size", plan.get("input_size")),
                        "per_category": method.get("per_category", False),
                        "trainer": {**plan.get("trainer", {}), **method.get("trainer", {})},
                        "data": _with_seed(data, seed),
                        "seed": seed,
                    }
                    yield Run(method_name, backbone, data_name, seed, definition)


def _with_seed(data: Mapping[str, Any], seed: int) -> dict[str, Any]:
    arguments = dict(data.get("init_args", {}))
    if data.get("seed_images", False):
        arguments["seed"] = seed
    return {"class_path": data["class_path"], "init_args": arguments}


def _check_keys(entry: object, known: set[str], needed: set[str], place: str) -> None:
    given = set(entry) if isinstance(entry, dict) else set()
    if not needed <= given <= known:
        msg = f"Expected {place} to have the keys {sorted(needed)}, and perhaps {sorted(known - needed)}, got {entry}."
        raise ValueError(msg)
