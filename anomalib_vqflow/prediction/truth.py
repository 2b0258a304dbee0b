# SPDX-License-Identifier: Apache-2.0
"""What test images in MVTec layout are in truth: their category, and whether they are anomalous."""

from collections.abc import Sequence
from pathlib import Path

from anomalib_vqflow.data.files import find_images, is_image
from anomalib_vqflow.data.folder_names import MASKS, TEST, is_normal_name, role_of

from .search import Found, Source, absolute, common_folder, name_sources


def find_test_images(places: Sequence[str], left_out: Sequence[Path] = ()) -> list[Source]:
    """Find the test images of categories in MVTec layout, such as ``bottle/test/scratch/000.png``.

    Args:
        places: Folders of categories, or categories.
        left_out: Folders that are not searched.

    Returns:
        Each image once, with its truth.

    Raises:
        ValueError: If a place holds no categories, or it is not known whether an image is normal.
        OSError: If a folder cannot be listed.
    """
    common = common_folder(Path(place) for place in places)
    found, truth = [], {}
    for root in map(Path, places):
        images = {
            image: (_name_of(category, common), not is_normal_name(kind.name))
            for category, test in _find_tests(root).items()
            for kind in _kinds(test)
            for image in find_images(kind)
        }
        found.append(Found(root, list(images)))
        truth.update(images)
    sources = [Source(path, name, *truth[path]) for path, name, *_ in name_sources(found, left_out)]
    if not sources:
        msg = f"There are no test images in {', '.join(places)}."
        raise ValueError(msg)
    return sources


def _find_tests(root: Path) -> dict[Path, Path]:
    """Find the folders of test images in a category, or in a folder of categories, by category."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for categories in ([root], folders):
        tests = {category: test for category in categories if (test := _find_test(category)) is not None}
        if tests:
            return tests
    msg = f"There is no category in {root}, such as bottle with bottle/test/good; --evaluate needs MVTec layout."
    raise ValueError(msg)


def _find_test(category: Path) -> Path | None:
    if not category.is_dir():
        return None
    tests = [path for path in sorted(category.iterdir()) if path.is_dir() and role_of(path.name) == TEST]
    if len(tests) > 1:
        msg = f"Expected one folder of test images, got {tests[0]} and {tests[1]}; put their files together."
        raise ValueError(msg)
    return tests[0] if tests else None


def _kinds(test: Path) -> list[Path]:
    """List the folders of a kind of images each, without that of masks, and refuse images of no kind."""
    entries = sorted(path for path in test.iterdir() if not path.name.startswith("."))
    if loose := [path for path in entries if is_image(path) and not path.is_dir()]:
        msg = f"{loose[0]} may be normal or anomalous; move it to {test / 'good'}, or a folder named like its defect."
        raise ValueError(msg)
    return [path for path in entries if path.is_dir() and role_of(path.name) != MASKS]


def _name_of(category: Path, common: Path) -> str:
    place = absolute(category)
    return place.name if place == common else place.relative_to(common).as_posix()
