# SPDX-License-Identifier: Apache-2.0
"""Whether images of a product that the training left out score as anomalous, for each category in turn.

    python benchmarks/foreign.py configs/shared_data.yaml --trainer.max_epochs 5

For each category, trains on all others, and scores all its test images (good or not: they are foreign to the model)
beside the normal test images of the others. Prints the AUROC of telling them apart, and the share of foreign images
above the threshold that lets 95 % of the normal ones pass. Options that are not listed go to the configuration.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import auroc, print_header, print_row
from models import configuration_overrides

from anomalib_vqflow import MultiCategory, VQFlow


def main(arguments: list[str] | None = None) -> None:
    """Train, score and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--left-out", nargs="+", help="categories to leave out in turn; all if not given")
    options, rest = parser.parse_known_args(arguments)
    overrides = configuration_overrides(rest)
    overrides["trainer.limit_val_batches"] = "0"  # nothing here needs anomalib's threshold

    rows = []
    everything = Engine.from_config(options.config, **overrides)[2]
    everything.setup()
    for category in options.left_out or everything.categories:
        seed_everything(options.seed)
        others = [name for name in everything.categories if name != category]
        engine, model, datamodule = Engine.from_config(
            options.config, **overrides, **{"data.categories": f"[{', '.join(others)}]"}
        )
        engine.fit(model, datamodule=datamodule)
        normal, foreign = score(model.eval().cpu(), everything, category)
        rows.append((category, auroc(normal, foreign), float(np.mean(foreign > np.quantile(normal, 0.95)))))
        print(rows[-1], flush=True)

    print()
    print_header("left out", "AUROC, foreign against normal", "foreign above 95 % of the normal")
    mean = ("mean", *(statistics.fmean(row[column] for row in rows) for column in (1, 2)))
    for category, separation, share in (*rows, mean):
        print_row(category, f"{separation:.3f}", f"{share:.3f}")


@torch.no_grad()
def score(model: VQFlow, data: MultiCategory, left_out: str) -> tuple[list[float], list[float]]:
    """Score the normal test images of the categories that the model knows, and all of the one that it does not.

    Args:
        model: A trained model.
        data: All categories.
        left_out: The category that the model does not know.

    Returns:
        Scores of normal and of foreign images.
    """
    normal, foreign = [], []
    for batch in data.test_dataloader():
        scores = model.model(model.pre_processor(batch.image)).pred_score.tolist()
        for path, label, value in zip(batch.image_path, batch.gt_label.tolist(), scores, strict=True):
            if data.category_by_path[path] == left_out:
                foreign.append(value)
            elif not label:
                normal.append(value)
    return normal, foreign


if __name__ == "__main__":
    main()
