# SPDX-License-Identifier: Apache-2.0
"""Train one model on all categories in a folder, test it, and export it to OpenVINO.

    python examples/train.py products

The folder has one folder per category, in MVTec layout; see the README, "Data".
"""

import argparse
from pathlib import Path

from anomalib.engine import Engine

from anomalib_vqflow import MultiCategory, VQFlow


def main(arguments: list[str] | None = None) -> None:
    """Train, test and export.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of categories")
    parser.add_argument(
        "--backbone", default="tf_efficientnet_lite0", help="of timm, or vqflow_tiny, which needs no download"
    )
    parser.add_argument("--input-size", type=int, default=256, help="side that images are resized to, in pixels")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the training")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where to write")
    options = parser.parse_args(arguments)

    datamodule = MultiCategory(options.root, train_batch_size=8, eval_batch_size=8, num_workers=2)
    model = VQFlow(options.backbone, input_size=options.input_size)
    engine = Engine(max_epochs=options.epochs, default_root_dir=options.results_dir)
    engine.train(model, datamodule=datamodule)
    print("Exported to", engine.export(model, "openvino", onnx_kwargs={"verbose": False}))


if __name__ == "__main__":
    main()
