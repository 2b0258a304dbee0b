# SPDX-License-Identifier: Apache-2.0
"""Small stand-ins of anomalib's datasets, in their folders."""

import numpy as np
import tifffile

from .folders import make_image, make_mask

FOLDERS = {  # dataset: category, folders of images with the masks of those
    "AutoVI": (
        "pipe_clip",
        {"train/good": None, "test/good": None, "test/cut": "ground_truth/cut/{}/0000.png"},
    ),
    "BMAD": (
        "Brain",
        {
            "train/good": None,
            "valid/good/img": None,
            "valid/Ungood/img": "valid/Ungood/label/{}.png",
            "test/good/img": None,
            "test/Ungood/img": "test/Ungood/label/{}.png",
        },
    ),
    "BTech": ("01", {"train/ok": None, "test/ok": None, "test/ko": "ground_truth/ko/{}.png"}),
    "MPDD": ("tubes", {"train/good": None, "test/good": None, "test/cut": "ground_truth/cut/{}_mask.png"}),
    "MVTecAD": ("screw", {"train/good": None, "test/good": None, "test/cut": "ground_truth/cut/{}_mask.png"}),
    "MVTecAD2": (
        "can",
        {
            "train/good": None,
            "validation/good": None,
            "test_public/good": None,
            "test_public/bad": "test_public/ground_truth/bad/{}_mask.png",
        },
    ),
    "MVTecLOCO": (
        "pushpins",
        {
            "train/good": None,
            "validation/good": None,
            "test/good": None,
            "test/logical_anomalies": "ground_truth/logical_anomalies/{}/000.png",
        },
    ),
    "MVTec3D": ("bagel", {"train/good/rgb": None, "test/good/rgb": None, "test/cut/rgb": "test/cut/gt/{}.png"}),
    "ADAM3D": (
        "1m1",
        {"train/good/rgb": None, "test/good/rgb": None, "test/cut/rgb": "test/cut/ground_truth/{}.png"},
    ),
    "VAD": ("vad", {"train/good": None, "test/good": None, "test/bad": "ground_truth/bad/{}.png"}),
    "Visa": ("visa_pytorch/pcb1", {"train/good": None, "test/good": None, "test/bad": "ground_truth/bad/{}.png"}),
}


def write_folders(root, dataset):
    """Write two images per folder, with their masks and depth; return the category."""
    category, folders = FOLDERS[dataset]
    for folder, mask in folders.items():
        for index in range(2):
            make_image(root / category / folder / f"{index:03}.png", 60 + len(folder))
            if mask:
                make_mask(root / category / mask.format(f"{index:03}"))
            if folder.endswith("rgb"):
                depth = root / category / folder.replace("rgb", "xyz") / f"{index:03}.tiff"
                depth.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(depth, np.zeros((32, 32, 3), np.float32))
    return category.split("/")[-1]
