# SPDX-License-Identifier: Apache-2.0
"""Plans of folders of categories, written to disk as they are and as their plain equivalent, and compared."""

import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomalib_vqflow import MultiCategory

from .oracle import Difference, attempt, judge

SPLITS = ("train", "val", "test")
EXACT = 1e-3  # of the range of colors


class Encoding(NamedTuple):
    """How pixels become the content of a file, and which plain pixels it shows."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    shows: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels
    tolerance: float = EXACT
    odd: bool = False  # whether it may be refused

    def __repr__(self) -> str:
        return self.name


def save(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Encode pixels by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG = Encoding("PNG", save)


@dataclass(frozen=True)
class Sample:
    """An image with its masks: where its files lie, and what it is."""

    number: int  # in its category
    category: str
    split: str
    kind: str
    path: str
    masks: tuple[str, ...] = ()  # which it is shared out among
    encoding: Encoding = PNG
    mask_encoding: Encoding = PNG
    odd: bool = False  # whether it may be refused
    lost: bool = False  # whether its masks are not there
    side: int = 12

    @property
    def normal(self) -> bool:
        return self.kind == "good"

    @property
    def plain_path(self) -> str:
        return f"{self.category}/{self.split}/{self.kind}/{self.number:03}.png"

    @property
    def plain_mask(self) -> str:
        return f"{self.category}/ground_truth/{self.kind}/{self.number:03}_mask.png"

    def pixels(self) -> np.ndarray:
        """A gradient, so that it survives lossy formats, with black and white, different for every sample."""
        rows, columns = np.mgrid[: self.side, : self.side + 2] / self.side
        turn = 2 * np.pi * np.random.default_rng(zlib.crc32(self.plain_path.encode())).random()
        channels = [np.sin(rows * np.cos(turn + shift) + columns * np.sin(turn + shift)) for shift in (0, 2, 4)]
        image = np.stack(channels, axis=2)
        return np.round(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)

    def mask(self) -> np.ndarray:
        """A rectangle of white, different for every sample, that is no quarter of the image."""
        top, left = np.random.default_rng(self.number).integers(0, self.side - 6, 2)
        mask = np.zeros((self.side, self.side + 2), np.uint8)
        mask[top : top + 4, left : left + 6] = 255
        return mask


@dataclass(frozen=True)
class Extra:
    """A file, link or folder that is no part of the plain equivalent."""

    path: str
    content: bytes | None = None  # None for a folder
    link: str | None = None
    silent: bool = True  # whether it needs no mention


@dataclass(frozen=True)
class Plan:
    """Samples, and what lies among them."""

    samples: tuple[Sample, ...]
    extras: tuple[Extra, ...] = ()
    linked: bool = False  # whether all files of samples are links to files elsewhere

    def _repr_pretty_(self, printer, _cycle):
        """Print a line for each file that is written."""
        for sample in self.samples:
            told = [sample.kind, sample.path, sample.encoding, *sample.masks]
            printer.text(
                f"\n{' '.join(map(str, told))} {sample.mask_encoding}{' odd' * sample.odd}{' lost' * sample.lost}"
            )
        for extra in self.extras:
            printer.text(f"\n{extra.path} -> {extra.link or str(extra.content)[:20]}")
        printer.text("\nlinked" * self.linked)


class Item(NamedTuple):
    """What the datamodule gives of an image."""

    normal: bool
    image: np.ndarray
    mask: np.ndarray | None


Items = dict[tuple[str, str], Item]  # by split and path


def read(root: object, base: Path | None = None, **arguments: object) -> Items:
    """Read all items of a folder, with their paths from there or from another, by the datamodule."""
    datamodule = MultiCategory(root, num_workers=0, **arguments)
    datamodule.setup()
    items = {}
    for split in SPLITS:
        data = getattr(datamodule, f"{split}_data", ())
        for item in (data[index] for index in range(len(data))):
            mask = None if item.gt_mask is None else item.gt_mask.numpy().astype(bool)
            path = str(Path(item.image_path).relative_to(base or root))
            items[split, path] = Item(not item.gt_label, item.image.numpy().transpose(1, 2, 0), mask)
    return items


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_plain(plan: Plan, root: Path) -> None:
    """Write the plain equivalent."""
    for sample in plan.samples:
        put(root / sample.plain_path, save(sample.encoding.shows(sample.pixels())))
        if sample.masks:
            put(root / sample.plain_mask, save(sample.mask_encoding.shows(sample.mask())))


def write_odd(plan: Plan, root: Path) -> None:
    """Write the files as the plan has them; several masks of an image have a stripe of it each."""
    for sample in plan.samples:
        files = {sample.path: sample.encoding.encode(sample.pixels())}
        stripes = np.arange(sample.side)[:, None] % max(len(sample.masks), 1)
        for index, mask in enumerate(() if sample.lost else sample.masks):
            files[mask] = sample.mask_encoding.encode(np.where(stripes == index, sample.mask(), 0).astype(np.uint8))
        for path, content in files.items():
            if plan.linked:
                store = root.with_name("store") / path
                put(store, content)
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                os.symlink(store, root / path)
            else:
                put(root / path, content)
    for extra in plan.extras:
        path = root / extra.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if extra.link is not None:
            os.symlink(extra.link, path)
        elif extra.content is None:
            path.mkdir()
        else:
            path.write_bytes(extra.content)


def names_of(root: Path, *paths: str) -> tuple[str, ...]:
    """Names by which a message may tell of files: their paths, and those of the folders in the category."""
    names: dict[str, None] = {}
    for path in map(Path, paths):
        inner = [folder for folder in path.parents if len(folder.parts) > 1]
        names.update(dict.fromkeys(str(root / part) for part in (path, *inner)))
    return tuple(names)


def differences(plan: Plan, root: Path, plain: Items, odd: Items) -> Iterator[Difference]:
    """Find how the items of a plan differ from those of its plain equivalent."""
    expected = {}
    for sample in plan.samples:
        for split in SPLITS:
            if (split, sample.plain_path) in plain:
                expected[split, sample.path] = (sample, plain[split, sample.plain_path])
    for split, path in odd.keys() - expected.keys():
        yield Difference(f"{path} is read for {split}", names_of(root, path))
    for (split, path), (sample, item) in expected.items():
        names = names_of(root, path, *sample.masks)
        found = odd.get((split, path))
        if found is None:
            yield Difference(f"{path} is not read for {split}", names)
        elif fault := _compare(sample, item, found):
            yield Difference(f"{path} has another {fault} in {split}", names)
    for extra in plan.extras:
        if not extra.silent:
            yield Difference(f"{extra.path} is not read", names_of(root, extra.path))


def _compare(sample: Sample, plain: Item, odd: Item) -> str | None:
    if odd.normal != plain.normal:
        return "label"
    if odd.image.shape != plain.image.shape or np.abs(odd.image - plain.image).max() > sample.encoding.tolerance:
        return "image"
    if (odd.mask is None) != (plain.mask is None):
        return "mask: one or none"
    if plain.mask is not None and (odd.mask != plain.mask).mean() > sample.mask_encoding.tolerance:
        return "mask"
    return None


@contextmanager
def two_folders() -> Iterator[tuple[Path, Path]]:
    """Make two empty folders, in memory where that is possible."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        roots = Path(folder, "plain"), Path(folder, "odd")
        for root in roots:
            root.mkdir()
        yield roots


def judge_plan(topic: str, plan: Plan, **arguments: object) -> str:
    """Judge a plan, with arguments of the datamodule."""
    with two_folders() as (plain_root, root):
        write_plain(plan, plain_root)
        write_odd(plan, root)
        plain = attempt(lambda: read(plain_root))
        assert plain.error is None, plain.error
        odd_files = [extra.path for extra in plan.extras]
        for sample in plan.samples:
            odd_files += [sample.path] if sample.odd or sample.encoding.odd else []
            odd_files += sample.masks if sample.odd or sample.mask_encoding.odd else []
        return judge(
            topic,
            lambda: read(root, **arguments),
            lambda items: differences(plan, root, plain.result, items),
            names_of(root, *odd_files),
        )
