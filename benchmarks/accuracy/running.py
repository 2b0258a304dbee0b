# SPDX-License-Identifier: Apache-2.0
"""One run: train for a fixed number of epochs, test once, write a row."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from anomalib_vqflow.report.measures import measure_agreement
from benchmarks.measuring import QUIET, peak_memory

from .building import WeightsMissingError, build_data, build_model, instantiate
from .plan import Run
from .recording import Image, RecordingEvaluator, to_arrays
from .store import Row, Store

PACKAGES = ("torch", "torchvision", "anomalib", "timm", "lightning", "anomalib-vqflow")
DECISIONS = ("image_F1Score", "pixel_F1Score")  # of the threshold of a model; here no model has one
ROOT = Path(__file__).parents[2]


def execute(run: Run, store: Store, command: str) -> Row | None:
    """Do a run and write its row; one whose weights are missing gets a row that says so.

    Args:
        run: The run.
        store: Where its row goes.
        command: Command line that asked for it.

    Returns:
        The row; None if another process is at this run, or has finished it meanwhile.
    """
    with store.lock(run.key) as ours:
        if not ours or run.key in store.finished():
            return None
        head = {
            "key": run.key,
            "method": run.method,
            "backbone": run.backbone,
            "data": run.data,
            "seed": run.seed,
            "command": command,
            "finished": "",
            "commit": _commit(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "hardware": _hardware(),
        }
        evaluator = RecordingEvaluator()
        try:
            measured = _train_and_test(run, evaluator, store.folder / "work" / run.key)
        except WeightsMissingError as error:
            row = {**head, "finished": _now(), "skipped": str(error), "definition": run.definition}
            if store.rows().get(run.key, {}).get("skipped") != row["skipped"]:
                store.append(row)
            return row
        results = {"metrics": _metrics(evaluator), "concepts": _concepts(run, evaluator.images)}
        row = {**head, "finished": _now(), **measured, **results, "definition": run.definition}
        store.append(row, to_arrays(evaluator.images))
        return row


def _train_and_test(run: Run, evaluator: RecordingEvaluator, folder: Path) -> dict[str, float | None]:
    """Do so with all categories, or with one after the other; tell seconds and memory."""
    _reset_peak_memory()
    seconds = {"train_seconds": 0.0, "test_seconds": 0.0}
    num_images = {"train_images": 0, "test_images": 0}
    datamodules = build_data(run.definition)
    for datamodule in datamodules:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        try:
            for name, value in _train_and_test_once(run, evaluator, datamodule, folder).items():
                seconds[name] += value
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        num_images["train_images"] += len(datamodule.train_data)
        num_images["test_images"] += len(datamodule.test_data)
    memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {**seconds, **num_images, "peak_memory_mb": peak_memory(), "peak_gpu_memory_mb": memory}


def _train_and_test_once(
    run: Run, evaluator: RecordingEvaluator, datamodule: AnomalibDataModule, folder: Path
) -> dict[str, float]:
    seed_everything(run.seed)
    model = build_model(run.definition, evaluator)
    arguments = instantiate(run.definition["trainer"])
    # No validation: nothing is chosen, and no threshold set, on images that are tested.
    engine = Engine(default_root_dir=folder, **{**QUIET, "limit_val_batches": 0, **arguments})
    datamodule.prepare_data()
    datamodule.setup()
    start = time.perf_counter()
    engine.fit(model, datamodule=datamodule)
    trained = time.perf_counter()
    if engine.trainer.interrupted:
        raise KeyboardInterrupt  # Lightning swallows it; a training that was cut short has no result
    engine.test(model, datamodule=datamodule, verbose=False)
    return {"train_seconds": trained - start, "test_seconds": time.perf_counter() - trained}


def _metrics(evaluator: RecordingEvaluator) -> dict[str, dict[str, float | None]]:
    """Turn the results into plain numbers; None where not evaluable."""
    frame = evaluator.results.drop(columns=list(DECISIONS))
    return json.loads(frame.to_json(orient="index", double_precision=15))


def _concepts(run: Run, images: Sequence[Image]) -> dict[str, float] | None:
    """Relate the concepts that one model finds in test images of several categories to these; else None."""
    frame = pd.DataFrame({"concept": [i.concept for i in images], "category": [i.category for i in images]})
    if run.definition["per_category"] or frame["concept"].isna().any() or frame["category"].nunique() < 2:
        return None
    purity, nmi = measure_agreement(frame)
    return {"in_use": frame["concept"].nunique(), "purity": purity, "NMI": nmi}


def _reset_peak_memory() -> None:
    """Let the peak begin anew; where the system refuses, it is that of the process so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _commit() -> str | None:
    """Name the commit that the benchmark is of, with a plus if files differ from it; None outside of a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
