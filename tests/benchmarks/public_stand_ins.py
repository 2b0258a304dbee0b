# SPDX-License-Identifier: Apache-2.0
"""Small images in the folders of public data sets, as the heads of their configurations describe them."""

import json
import re
from pathlib import Path

from tests.data.folders import make_image, make_mask

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
COPIES = 3
CHOSEN = {  # layout: two categories, the first of which is the one in the head
    "mvtec_ad": ("bottle", "screw"),
    "visa": ("candle", "pcb1"),
    "visa_pytorch": ("candle", "pcb1"),
    "btad": ("01", "03"),
    "mpdd": ("tubes", "connector"),
    "real_iad": ("audiojack", "usb"),
    "mvtec_ad_2": ("can", "vial"),
}


def write_stand_in(root, layout):
    """Write three images for each line of the layout, of two categories, with their masks and tables."""
    example, *_ = categories = CHOSEN[layout]
    head = (CONFIGS / f"{layout.removesuffix('_pytorch')}.yaml").read_text().partition("class_path")[0]
    lines = re.findall(r"^#     (\S+)$", head, re.MULTILINE)
    copied = [line for line in lines if line.startswith("visa_pytorch")]
    for line in copied if layout == "visa_pytorch" else [line for line in lines if line not in copied]:
        if not line.endswith(("csv", "json")):
            for category in categories:
                for index in range(COPIES):
                    write_image(root / line.replace(example, category).replace("000", f"00{index}"))
    if layout == "visa":
        write_split(root, categories)
    if layout == "real_iad":
        for category in categories:
            write_metadata(root, category)
    return categories


def write_image(path):
    if re.search(r"ground_truth|Masks|_mask", str(path)):
        make_mask(path)
    else:
        make_image(path, 150 if re.search(r"/(bad|ko|broken_large|anomalous|Anomaly|NG)/", str(path)) else 60)


def images(root, folder):
    return [path.relative_to(root).as_posix() for path in sorted((root / folder).rglob("*")) if path.is_file()]


def write_split(root, categories):
    """Write the table of VisA's split; the last normal image is for the test."""
    rows = ["object,split,label,image,mask"]
    for category in categories:
        *train, test = images(root, f"{category}/Data/Images/Normal")
        rows += [f"{category},train,normal,{path}," for path in train] + [f"{category},test,normal,{test},"]
        anomalous = (images(root, f"{category}/Data/{kind}/Anomaly") for kind in ("Images", "Masks"))
        rows += [f"{category},test,anomaly,{image},{mask}" for image, mask in zip(*anomalous, strict=True)]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")


def write_metadata(root, category):
    """Write the table of a category of Real-IAD; the last normal image is for the test."""
    folder = root / "realiad_256" / category
    *train, test = [{"anomaly_class": "OK", "image_path": path, "mask_path": None} for path in images(folder, "OK")]
    anomalous = [path for path in images(folder, "NG") if path.endswith("jpg")]
    tests = [
        {"anomaly_class": "HS", "image_path": path, "mask_path": path.replace(".jpg", "_mask.png")}
        for path in anomalous
    ]
    path = root / "realiad_jsons" / "realiad_jsons" / f"{category}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"meta": {"prefix": f"{category}/"}, "train": train, "test": [test, *tests]}))
