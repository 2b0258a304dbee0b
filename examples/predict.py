# SPDX-License-Identifier: Apache-2.0
"""Score an image or a folder of images with a checkpoint, and draw what was found.

    python examples/predict.py results/VQFlow/products/v0/weights/lightning/model.ckpt images

Subfolders are searched, too, and kept: the picture of ``images/nut/000.png`` is ``nut/000.png.png`` in the folder that
the last line names, a new one for every run. A file that cannot be read is named and left out, and the exit code is 1.
"""

import argparse
import sys
from pathlib import Path

import torch
from anomalib.data import ImageItem
from anomalib.utils.path import create_versioned_dir
from PIL import Image
from torch import Tensor

from anomalib_vqflow import VQFlow
from anomalib_vqflow.checkpoint import NO_CHECKPOINT
from anomalib_vqflow.data import find_images, read_image
from anomalib_vqflow.image_files import TrueImageVisualizer
from anomalib_vqflow.outputs import Prediction


def main(arguments: list[str] | None = None) -> int:
    """Predict, print and draw.

    Args:
        arguments: Command line; None for that of the process.

    Returns:
        0, or 1 if an image could not be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, help="image or folder of images")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where to write pictures")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        paths = find_images(options.images)
    except OSError as error:
        parser.error(f"Cannot read {error.filename} ({error.strerror}).")
    if not paths:
        parser.error(f"There are no images in {options.images}.")
    try:
        model = load(options.checkpoint)
    except ValueError as error:
        parser.error(str(error))

    folder = create_versioned_dir(options.results_dir / "VQFlow" / "predictions").resolve()
    root = options.images if options.images.is_dir() else options.images.parent
    failures = num_unlabeled = 0
    for path in paths:
        try:
            image = read_image(path, model.bit_depth)
        except ValueError as error:
            print(f"Left out: {error}", file=sys.stderr)
            failures += 1
            continue
        prediction = model(image[None].to(model.device))
        num_unlabeled += prediction.pred_label is None
        label = "-" if prediction.pred_label is None else "anomalous" if prediction.pred_label.item() else "normal"
        print(f"{prediction.pred_score.item():.3f}  {label:<9}  {path}")
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        draw(image, prediction).save(target.with_name(f"{target.name}.png"))
    if num_unlabeled:
        print("The model has no threshold: scores are raw, and no image gets a label.")
    print(f"{len(paths) - failures} images, {failures} left out. Pictures are in {folder}.")
    return int(failures > 0)


def load(checkpoint: Path) -> VQFlow:
    """Load a model to where it is fast.

    Args:
        checkpoint: File of a training.

    Returns:
        The model.

    Raises:
        ValueError: If the file is no checkpoint, or does not fit.
    """
    try:
        model = VQFlow.load_from_checkpoint(checkpoint, map_location="cpu")
    except NO_CHECKPOINT as error:
        reason = error.strerror if isinstance(error, OSError) else "no checkpoint, or a damaged one"
        msg = f"Cannot load {checkpoint} ({reason}); give the model.ckpt of a VQFlow training."
        raise ValueError(msg) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def draw(image: Tensor, prediction: Prediction) -> Image.Image:
    """Draw an image beside its map and what was found, as anomalib does; only the map if there is no threshold.

    Args:
        image: Image of shape ``(3, H, W)``, in [0, 1].
        prediction: Prediction of a batch of this image.

    Returns:
        The picture.
    """
    names = ("anomaly_map", "pred_mask", "pred_score", "pred_label")
    fields = {name: value[0].cpu() for name in names if (value := getattr(prediction, name)) is not None}
    return TrueImageVisualizer().visualize(ImageItem(image=image, **fields))


if __name__ == "__main__":
    sys.exit(main())
