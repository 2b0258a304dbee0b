# SPDX-License-Identifier: Apache-2.0
"""Score an image or a folder of images with a checkpoint, and visualize what was found.

    python examples/predict.py results/VQFlow/products/v0/weights/lightning/model.ckpt images

The visualizations go to ``VQFlow/latest/images`` in the results folder.
"""

import argparse
from pathlib import Path

from anomalib.engine import Engine

from anomalib_vqflow import VQFlow


def main(arguments: list[str] | None = None) -> None:
    """Predict and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, help="image or folder of images")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where to write visualizations")
    options = parser.parse_args(arguments)

    model = VQFlow.load_from_checkpoint(options.checkpoint, map_location="cpu")
    engine = Engine(default_root_dir=options.results_dir, logger=False)
    for batch in engine.predict(model, data_path=options.images):
        for path, score, label in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
            print(f"{score.item():.3f}  {'anomalous' if label else 'normal':<9}  {path}")


if __name__ == "__main__":
    main()
