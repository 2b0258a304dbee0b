# SPDX-License-Identifier: Apache-2.0
"""The whole job on data that the package draws itself: train, test, export, and inspect images with the exported model.

    python examples/quick_start.py

One model learns all ten products at once, from normal images, without being told which product an image shows. It takes
a few minutes on two cores and needs neither a GPU nor a network. The settings are those of configs/quick_start.yaml.

What it writes lies in the results folder: the table per product, the checkpoint, the OpenVINO model, a picture of each
kind of defect, and an overview of all products.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from anomalib.data.utils import read_mask
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from PIL import Image, ImageDraw, ImageFont

from anomalib_vqflow import MultiCategory

CONFIG = Path(__file__).parents[1] / "configs" / "quick_start.yaml"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO would compute in bfloat16 on CPUs that can
NUM_LISTED = 3  # images whose scores are printed, per product
SIDE, GAP, LINE = 112, 4, 20  # of the overview, in pixels
COLUMNS = ("image", "defect", "anomaly map", "found")
RED = (230, 30, 40)


class Inspected(NamedTuple):
    """A test image and what the exported model says of it."""

    category: str
    defect: str
    path: Path
    score: float
    is_anomalous: bool
    panels: list[np.ndarray]  # image, true mask, anomaly map, and image with the contour found; (H, W, 3), RGB


def main(arguments: list[str] | None = None) -> None:
    """Run the whole job.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="configuration file")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where to write")
    parser.add_argument("--epochs", type=int, help="passes over the images, if not as in the configuration")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    overrides = {"default_root_dir": options.results_dir}
    if options.epochs is not None:
        overrides |= {"trainer.max_epochs": options.epochs, "trainer.check_val_every_n_epoch": options.epochs}
    seed_everything(options.seed)  # `anomalib train` has an argument for it, but ignores it
    engine, model, datamodule = Engine.from_config(options.config, **overrides)
    engine.train(model, datamodule=datamodule)

    folder = Path(engine.trainer.default_root_dir)
    exported = engine.export(model, "openvino", export_root=folder, onnx_kwargs={"verbose": False})
    inspected = inspect(exported, datamodule)
    print_scores(inspected)
    for item in inspected:
        picture = folder / "pictures" / item.category / f"{item.defect}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.hstack(item.panels)).save(picture)
    draw_overview(inspected).save(folder / "overview.png")

    print(f"\nDone in {(time.perf_counter() - start) / 60:.1f} minutes. In {folder.resolve()}:")
    print("  category_metrics.csv   the table above")
    print("  overview.png           one defective image of each product, with what was found")
    print("  pictures               one of each kind of defect: image, mask, anomaly map, what was found")
    print(f"  {engine.best_model_path and Path(engine.best_model_path).relative_to(folder)}   for examples/predict.py")
    print(f"  {exported.relative_to(folder)}   for examples/folder_inference.py")


def inspect(exported: Path, datamodule: MultiCategory) -> list[Inspected]:
    """Run the exported model on the first test image of every kind of defect, and on the first good one."""
    inferencer = OpenVINOInferencer(exported, device="CPU", config=EXACT)
    samples = datamodule.test_data.samples.sort_values(["category", "label", "image_path"])
    inspected = []
    for sample in samples.groupby(["category", "label"]).head(1).itertuples():
        image = np.asarray(Image.open(sample.image_path).convert("RGB"))
        prediction = inferencer.predict(sample.image_path)
        anomaly_map = prediction.anomaly_map.squeeze()
        truth = read_mask(sample.mask_path) if sample.mask_path else np.zeros(anomaly_map.shape)
        panels = [image, gray(truth > 0), heat(anomaly_map), with_contour(image, prediction.pred_mask.squeeze())]
        score, label = prediction.pred_score.item(), bool(prediction.pred_label.item())
        inspected.append(Inspected(sample.category, sample.label, Path(sample.image_path), score, label, panels))
    return inspected


def gray(mask: np.ndarray) -> np.ndarray:
    """Show a mask in white on black."""
    return np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)


def heat(anomaly_map: np.ndarray) -> np.ndarray:
    """Show scores from 0 (dark) over the threshold, 0.5, to 1 (bright)."""
    colored = cv2.applyColorMap((anomaly_map.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(colored, cv2.COLOR_BGR2RGB)


def with_contour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the outline of a mask on an image."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), contours, -1, RED, thickness=2)


def print_scores(inspected: list[Inspected]) -> None:
    """Print score and decision of a few images of each product."""
    print("\nA few images, through the exported model (a score of 0.5 or more is anomalous):")
    print(f"{'product':<12}{'truth':<20}{'score':>6}  decision")
    for category in sorted({item.category for item in inspected}):
        good_first = sorted((item for item in inspected if item.category == category), key=lambda i: i.defect != "good")
        for item in good_first[:NUM_LISTED]:
            decision = "anomalous" if item.is_anomalous else "normal"
            print(f"{item.category:<12}{item.defect:<20}{item.score:>6.3f}  {decision}")


def draw_overview(inspected: list[Inspected]) -> Image.Image:
    """Draw the first kind of defect of each product, a row each, in two blocks side by side."""
    chosen = {item.category: item for item in reversed(inspected) if item.defect != "good"}
    items = [chosen[category] for category in sorted(chosen)]
    rows = -(-len(items) // 2)
    width, height = len(COLUMNS) * (SIDE + GAP), LINE + SIDE
    overview = Image.new("RGB", (2 * width + 4 * GAP, LINE + rows * (height + GAP)), "white")
    draw, font = ImageDraw.Draw(overview), ImageFont.load_default(size=13)
    for index, item in enumerate(items):
        left, top = (index // rows) * (width + 4 * GAP) + GAP, LINE + (index % rows) * (height + GAP)
        draw.text((left, top + 2), f"{item.category}: {item.defect}, score {item.score:.2f}", "black", font)
        for column, (title, panel) in enumerate(zip(COLUMNS, item.panels, strict=True)):
            x = left + column * (SIDE + GAP)
            if index % rows == 0:
                draw.text((x, 2), title, "dimgray", font)
            overview.paste(Image.fromarray(panel).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, top + LINE))
    return overview


if __name__ == "__main__":
    main()
