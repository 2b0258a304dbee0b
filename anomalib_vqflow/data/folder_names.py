# SPDX-License-Identifier: Apache-2.0
"""What the names of folders in MVTec layout mean, in any case and under other common names."""

import re
from pathlib import Path

from .files import list_folder

TRAIN, VAL, TEST = "train", "val", "test"  # as anomalib's Split has them
MASKS = "masks"
ROLES = {  # what a folder of a category holds, by its name in lower case and without signs
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("groundtruth", "gt", "mask", "masks"), MASKS),
}
NORMAL_NAMES = frozenset(  # of folders of normal images, in lower case and without digits, signs and PARTS
    [
        *("good", "goods", "ok", "okay", "io", "normal", "nominal", "pass", "passed", "accepted", "acceptable"),
        *("clean", "healthy", "intact", "flawless", "undamaged", "nondefect", "nondefective", "nodefect", "nodefects"),
        *("defectfree", "defectless", "faultfree", "faultless", "anomalyfree", "noanomaly", "noanomalies"),
        *("nonanomaly", "nonanomalous"),
    ]
)
PARTS = re.compile(r"(images?|imgs?|samples?|parts?|products?|items?)$")
GOOD = "good"


def is_normal_name(name: str) -> bool:
    """Tell whether a folder of this name holds normal images.

    Example:
        >>> [is_normal_name(name) for name in ("Good", "OK_2", "non-defective", "good images", "not_ok", "scratch")]
        [True, True, True, True, False, False]
    """
    letters = re.sub(r"[\W\d_]", "", name.casefold())
    return letters in NORMAL_NAMES or PARTS.sub("", letters) in NORMAL_NAMES


def role_of(name: str) -> str | None:
    """Tell what a folder of this name in a category holds: ``"train"``, ``"val"``, ``"test"``, ``"masks"``, or None."""
    return ROLES.get(re.sub(r"[\W_]", "", name.casefold()))


def find_roles(folder: Path) -> dict[str, Path]:
    """Find the folders of splits and masks in a folder, in any case and under common names.

    Args:
        folder: Folder to look into.

    Returns:
        Folders by ``"train"``, ``"val"``, ``"test"`` and ``"masks"``, as far as there are any.

    Raises:
        ValueError: If there are two for the same, or the folder cannot be listed.
    """
    found: dict[str, Path] = {}
    for path in list_folder(folder):
        role = role_of(path.name) if path.is_dir() else None
        if role in found:
            msg = (
                f"Expected one folder of {role}, got {found[role]} and {path}; put their files together, or rename one."
            )
            raise ValueError(msg)
        if role is not None:
            found[role] = path
    return found


def is_category(folder: Path) -> bool:
    """Tell whether a folder holds training or test images of one category; a folder that can't be listed does not."""
    try:
        roles = {role_of(path.name) for path in folder.iterdir() if path.is_dir()}
    except OSError:
        return False
    return not roles.isdisjoint({TRAIN, TEST})
