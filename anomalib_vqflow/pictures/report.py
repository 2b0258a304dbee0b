# SPDX-License-Identifier: Apache-2.0
"""From a trained model and its data to the files of the report."""

from pathlib import Path

from anomalib.data import AnomalibDataModule

from anomalib_vqflow.lightning_model import VQFlow

from .collect import collect
from .page import render_page
from .sections import build_sections, describe, remarks
from .sources import set_up

PAGE = "index.html"
TITLE = "What the model has learnt"
NAMES = ("concepts", "confusion_train", "confusion_test", "scores", "false_alarms", "misses", "codes")


def write_report(
    model: VQFlow, datamodule: AnomalibDataModule, folder: Path, source: str = "", max_train_images: int = 2000
) -> Path:
    """Write pictures of what a model has learnt, and one page with all of them.

    Args:
        model: A trained model.
        datamodule: Its data; downloaded and set up if needed.
        folder: Where to write; made if missing. Pictures of an earlier report there are replaced.
        source: Where the model comes from, for the page.
        max_train_images: Of more training images, an evenly drawn share of this size is used.

    Returns:
        Path of the page.

    Raises:
        SourceError: If there are no training or test images, or some that can't be used.
        OSError: If the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    set_up(datamodule, model.input_size)
    collected = collect(model, datamodule, max_train_images)
    sections = build_sections(model, datamodule, collected)
    facts = {"Checkpoint": source} if source else {}
    facts |= describe(model, collected)
    for name in NAMES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for picture in (picture for section in sections for picture in section.pictures):
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    page = folder / PAGE
    page.write_text(render_page(TITLE, facts, remarks(collected), sections), encoding="utf-8")
    return page
