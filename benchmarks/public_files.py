# SPDX-License-Identifier: Apache-2.0
"""Which public data sets there are configurations of, and what must be there before one of them is used."""

from pathlib import Path

import pandas as pd
import yaml
from anomalib.data import AnomalibDataModule

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.configuration import configurations
from anomalib_vqflow.naming import first_names

DATASETS = {path.stem: path for name, path in configurations().items() if name.startswith("data/")}


def check_files(datamodule: MultiCategory) -> None:
    """Refuse data sets that are not there, before anomalib downloads them.

    Args:
        datamodule: The datamodule, not set up.

    Raises:
        ValueError: If folders or files are missing; the message has the head of the data set's configuration, which
            tells where they come from and how they are laid out.
    """
    parts = datamodule.by_category.values()
    for dataset in dict.fromkeys(part.name for part in parts):
        needed = [path for part in parts if part.name == dataset for path in needed_files(part)]
        if missing := [str(path) for path in needed if not path.exists()]:
            msg = (
                f"{len(missing)} of {len(needed)} files and folders of {dataset} are missing, and none is downloaded: "
                f"{first_names(missing)}.\n\n{expected_layout(dataset)}"
            )
            raise ValueError(msg)


def expected_layout(dataset: str) -> str:
    """Read where a data set comes from and how it is laid out: the head of its configuration."""
    texts = [path.read_text(encoding="utf-8") for path in DATASETS.values()]
    (text,) = (text for text in texts if yaml.safe_load(text)["init_args"]["dataset"] == dataset)
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines() if line.startswith("#"))


def needed_files(datamodule: AnomalibDataModule) -> list[Path]:
    """List files and folders without which a category is not there.

    Args:
        datamodule: Datamodule of a category.

    Returns:
        Paths.
    """
    root, category = Path(datamodule.root), datamodule.category
    if datamodule.name == "RealIAD":
        json_path = str(datamodule.json_path).format(category=category)
        return [root / json_path, root / f"realiad_{datamodule.resolution}" / category]
    if datamodule.name == "MVTecAD2":
        return [root / category / folder for folder in ("train", "validation", "test_public")]
    if datamodule.name == "Visa":
        return needed_files_of_visa(root, category)
    return [root / category / folder for folder in ("train", "test")]


def needed_files_of_visa(root: Path, category: str) -> list[Path]:
    """List what VisA needs: the images, or the copies of its split that anomalib makes of them.

    anomalib takes copies for complete as soon as their folder is there, even if copying was interrupted. So if the
    table of the split is there, all copies have to be.
    """
    copies, split = root / "visa_pytorch" / category, root / "split_csv" / "1cls.csv"
    if not copies.exists():
        return [split, root / category]
    if not split.exists():
        return [copies / folder for folder in ("train", "test")]
    rows = pd.read_csv(split).query("object == @category")
    folders = rows["split"] + "/" + rows["label"].map({"normal": "good", "anomaly": "bad"})
    return [copies / folder / Path(image).name for folder, image in zip(folders, rows["image"], strict=True)]
