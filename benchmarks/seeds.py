# SPDX-License-Identifier: Apache-2.0
"""Train a configuration with several seeds and print a table of means and deviations.

    python benchmarks/seeds.py configs/quick_start.yaml --seeds 0 1 2

The seed sets weights and the order of images, and the images if the package draws them. The deviation is that of the
sample (n - 1). Below the table: how the concepts found without labels relate to the categories of the test images.
Options that are not listed go to the configuration, as ``--trainer.max_epochs 5``.
"""

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import mean_and_deviation, print_header, print_row
from models import configuration_overrides

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.report.measures import measure_agreement

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")


def main(arguments: list[str] | None = None) -> None:
    """Train, test and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, rest = parser.parse_known_args(arguments)
    overrides = configuration_overrides(rest)

    draws_images = "SyntheticProducts" in options.config.read_text()
    runs, seconds, concepts = [], [], []
    for seed in options.seeds:
        seed_everything(seed)
        if draws_images:
            overrides["data.seed"] = str(seed)
        engine, model, datamodule = Engine.from_config(options.config, **overrides)
        start = time.perf_counter()
        engine.train(model, datamodule=datamodule)
        seconds.append(time.perf_counter() - start)
        runs.append(model.evaluator.results)
        concepts.append(concept_measures(model, datamodule))

    names = ", ".join(map(str, options.seeds))
    print(f"\n{options.config}, seeds {names}, {statistics.mean(seconds) / 60:.1f} minutes each:\n")
    print_header("category", *(metric.replace("_", " ") for metric in METRICS))
    for category in runs[0].index:
        print_row(category, *(mean_and_deviation([run.loc[category, metric] for run in runs]) for metric in METRICS))
    for name in concepts[0]:
        print(f"{name}: {mean_and_deviation([measures[name] for measures in concepts])}")


@torch.no_grad()
def concept_measures(model: VQFlow, datamodule: MultiCategory) -> dict[str, float]:
    """Relate the concepts of the test images to their categories, which the model does not know.

    Args:
        model: A trained model.
        datamodule: Its data.

    Returns:
        Concepts in use, share of images in the category that is most frequent in their concept, and normalized mutual
        information.
    """
    model = model.eval().cpu()
    found, known = [], []
    for batch in datamodule.test_dataloader():
        found += model.model(model.pre_processor(batch.image)).concept.tolist()
        known += [datamodule.category_by_path[path] for path in batch.image_path]
    purity, nmi = measure_agreement(pd.DataFrame({"concept": found, "category": known}))
    return {"concepts in use": float(len(set(found))), "purity": purity, "normalized mutual information": nmi}


if __name__ == "__main__":
    main()
