# SPDX-License-Identifier: Apache-2.0
"""The whole job on data that the package draws itself: train, test, export, and inspect images with the exported model.

    python examples/quick_start.py

One model learns all ten products at once, from normal images, without being told which product an image shows. It takes
a few minutes on two cores and needs neither a GPU nor a network. The settings are those of configs/quick_start.yaml.

What it writes lies in the results folder: the table per product, the checkpoint, the OpenVINO model, an image of each
kind of defect with what was found, and an overview of all products.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from anomalib.data import NumpyImageItem
from anomalib.data.utils import read_image, read_mask
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.visualization.image.functional import create_image_grid
from anomalib.visualization.image.item_visualizer import visualize_image_item
from lightning.pytorch import seed_everything
from PIL import Image, ImageDraw, ImageFont

from anomalib_vqflow import MultiCategory

CONFIG = Path(__file__).parents[1] / "configs" / "quick_start.yaml"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO would compute in bfloat16 on CPUs that can
NUM_LISTED = 3  # images whose scores are printed, per product
CAPTION_HEIGHT = 24  # of the overview, in pixels


class Inspected(NamedTuple):
    """A test image and what the exported model says of it."""

    category: str
    defect: str
    score: float
    is_anomalous: bool | None  # None where the model has no threshold
    panels: Image.Image  # image, true mask, anomaly map, and image with the contour found


def main(arguments: list[str] | None = None) -> None:
    """Run the whole job.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="configuration file")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where to write")
    parser.add_argument("--epochs", type=int, help="epochs of the training, if not as in the configuration")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    overrides = {"default_root_dir": options.results_dir}
    if options.epochs is not None:
        overrides["trainer.max_epochs"] = options.epochs
    seed_everything(options.seed)  # `anomalib train` has an argument for it, but ignores it
    engine, model, datamodule = Engine.from_config(options.config, **overrides)
    engine.train(model, datamodule=datamodule)

    folder = Path(engine.trainer.default_root_dir)
    exported = engine.export(model, "openvino", export_root=folder, onnx_kwargs={"verbose": False})
    inspected = inspect(exported, datamodule)
    print_scores(inspected)
    for item in inspected:
        path = folder / "defects" / item.category / f"{item.defect}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        item.panels.save(path)
    draw_overview(inspected).save(folder / "overview.png")

    print(f"\nDone in {(time.perf_counter() - start) / 60:.1f} minutes. In {folder.resolve()}:")
    print("  category_metrics.csv   the table above")
    print("  overview.png           one defective image of each product, with what was found")
    print("  defects                one of each kind of defect: image, mask, anomaly map, what was found")
    print(f"  {Path(engine.best_model_path).relative_to(folder)}   for examples/predict.py")
    print(f"  {exported.relative_to(folder)}   for vqflow-predict")


def inspect(exported: Path, datamodule: MultiCategory) -> list[Inspected]:
    """Run the exported model on the first test image of every kind of defect, and on the first good one."""
    inferencer = OpenVINOInferencer(exported, device="CPU", config=EXACT)
    samples = datamodule.test_data.samples.sort_values(["category", "label", "image_path"])
    inspected = []
    for sample in samples.groupby(["category", "label"]).head(1).itertuples():
        image, found = read_image(sample.image_path), inferencer.predict(sample.image_path)
        item = NumpyImageItem(
            image=image,
            gt_mask=read_mask(sample.mask_path) > 0 if sample.mask_path else np.zeros(image.shape[:2], dtype=bool),
            anomaly_map=found.anomaly_map.squeeze(),
            pred_mask=None if found.pred_mask is None else found.pred_mask.squeeze(),
        )
        panels = visualize_image_item(item, ["image", "gt_mask", "anomaly_map"], [("image", ["pred_mask"])])
        score, is_anomalous = found.pred_score.item(), None if found.pred_label is None else bool(found.pred_label)
        inspected.append(Inspected(sample.category, sample.label, score, is_anomalous, panels))
    return inspected


def print_scores(inspected: list[Inspected]) -> None:
    """Print score and decision of a few images of each product."""
    print("\nA few images, through the exported model (a score of 0.5 or more is anomalous):")
    print(f"{'product':<12}{'truth':<20}{'score':>6}  decision")
    for category in sorted({item.category for item in inspected}):
        good_first = sorted((item for item in inspected if item.category == category), key=lambda i: i.defect != "good")
        for item in good_first[:NUM_LISTED]:
            decision = {True: "anomalous", False: "normal", None: "-"}[item.is_anomalous]
            print(f"{item.category:<12}{item.defect:<20}{item.score:>6.3f}  {decision}")


def draw_overview(inspected: list[Inspected]) -> Image.Image:
    """Draw the first kind of defect of each product with its score, two side by side."""
    chosen = {item.category: item for item in reversed(inspected) if item.defect != "good"}
    captioned = []
    for category in sorted(chosen):
        item = chosen[category]
        row = Image.new("RGB", (item.panels.width, CAPTION_HEIGHT + item.panels.height), "white")
        row.paste(item.panels, (0, CAPTION_HEIGHT))
        caption, font = f"{category}: {item.defect}, score {item.score:.2f}", ImageFont.load_default(size=16)
        ImageDraw.Draw(row).text((4, 2), caption, "black", font)
        captioned.append(row)
    return create_image_grid(captioned, nrow=2)


if __name__ == "__main__":
    main()
