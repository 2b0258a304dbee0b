# SPDX-License-Identifier: Apache-2.0
"""Strategies for folders of categories: those that mean the same as the plain layout, and those with odd parts."""

from dataclasses import dataclass, field, replace
from pathlib import PurePath

from hypothesis import strategies as st

from .plans import PNG, Encoding, Extra, Plan, Sample, save

ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "masks": ("ground_truth", "ground truth", "Ground-Truth", "gt", "mask", "masks"),
}
NORMALS = ("good", "ok", "normal", "pass", "non_defective", "good images", "OK_2", "no-defect", "intact", "0_good")
UNKNOWN_NORMALS = ("gut", "images", "0", "train", "日本", "ng")
DEFECTS = ("hole", "Hole big", "not_good", "ng", "broken-ok_part", "Öl", "日本", "x.png", "0", "anomaly", "goodbye")
ODD_DEFECTS = ("mask", "Train", "valid", "labels", "gt")
STEMS = ("", "a b", "é", "e\u0301", "日本", "x.y", "IMG_", "100%", "[1]", "-", "x_mask", "a'b", "#", "🙂")
ODD_STEMS = ("", "\udcff", "a\nb", " ", "~", "$")
CATEGORIES = ("nut", "Bolt", "two words", "train", "ground_truth", "日本", "good", "a.b", "x.png", "é")
MASK_NAMES = (  # of the first and the second mask of an image
    ("{}", "{}_2"),
    ("{}_mask", "{}_mask_2"),
    ("{}-mask", "{}-mask2"),
    ("{}_gt", "{}_gt_b"),
    ("{}.mask", "{}.mask.2"),
    ("{}_MASK", "{}_MASK_2"),
    ("{}_1", "{}_2"),
    ("{}/0", "{}/1"),
    ("{}/mask", "{}/x/mask"),
    ("{}_masks/0", "{}_mask"),
)
MASK_PLACES = ("{masks}", "{masks}/{split}", "{split}/{masks}")
ENCODINGS = {
    **dict.fromkeys((".png", ".PNG", ".apng"), PNG),
    **dict.fromkeys((".jpg", ".JPEG", ".jfif"), Encoding("JPEG", lambda p: save(p, "JPEG", quality=95), tolerance=0.1)),
    **dict.fromkeys((".bmp", ".dib"), Encoding("BMP", lambda pixels: save(pixels, "BMP"))),
    **dict.fromkeys((".tif", ".TIFF"), Encoding("TIFF", lambda pixels: save(pixels, "TIFF"))),
    ".webp": Encoding("WEBP", lambda pixels: save(pixels, "WEBP", lossless=True)),
    ".ppm": Encoding("PPM", lambda pixels: save(pixels, "PPM")),
    ".tga": Encoding("TGA", lambda pixels: save(pixels, "TGA")),
    ".jp2": Encoding("JPEG2000", lambda pixels: save(pixels, "JPEG2000")),
    ".pcx": Encoding("PCX", lambda pixels: save(pixels, "PCX")),
}
SILENT_FILES = (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini", "notes.txt", "README", "labels.json", ".x/y.png")
DUBIOUS_FILES = ("x.heic", "x.npy", "scan", "x.zip", "x.mp4", "x.png.bak", "x.", "x.dng")
BROKEN_FILES = (b"", b"this is no image", save(Sample(0, "", "test", "", "").pixels())[:60])


@dataclass
class Category:
    """How the folders of one category are spelled, and its samples so far."""

    name: str
    folders: dict[str, str]  # of splits and masks
    mask_place: str
    mask_names: tuple[str, str]
    samples: list[Sample] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)

    def add(self, split: str, kind: str, path: str, **arguments: object) -> None:
        """Add a sample at a path below the folder of its split; ``masked`` gives it so many masks."""
        masked = arguments.pop("masked", 0)
        place = self.mask_place.format(masks=self.folders["masks"], split=self.folders[split])
        stem = path.rpartition(".")[0]
        masks = [f"{self.name}/{place}/{name.format(stem)}.png" for name in self.mask_names[:masked]]
        taken = {mask for sample in self.samples for mask in sample.masks}
        masks = [f"{mask[:-4]}_{len(self.samples)}.png" if mask in taken else mask for mask in masks]
        path = f"{self.name}/{self.folders[split]}/{path}"
        sample = Sample(len(self.samples), self.name, split, kind, path, tuple(masks), **arguments)
        self.samples.append(sample)


@st.composite
def spellings(draw, role):
    """Draw a name of a folder of a role, in any case."""
    name = draw(st.sampled_from(ROLES[role]))
    return draw(st.sampled_from((name, name.upper(), name.title(), name.swapcase())))


@st.composite
def categories(draw, name, odd=False):
    """Draw a category: two or three training images, test images of both labels, perhaps validation images."""
    category = Category(
        name,
        {role: draw(spellings(role)) for role in ROLES},
        draw(st.sampled_from(MASK_PLACES)),
        draw(st.sampled_from(MASK_NAMES)),
    )
    num_masks = draw(st.integers(0, 2))
    splits = ("train", "test", "val") if draw(st.booleans()) else ("train", "test")
    for split in splits:
        for index, kind in enumerate(("good",) if split == "train" else ("good", "defect1", "defect2")):
            names, odd_names = (NORMALS, UNKNOWN_NORMALS) if kind == "good" else (DEFECTS, ODD_DEFECTS)
            odd_folder = odd and draw(st.integers(0, 7)) == 7
            if odd_folder and (split == "train" or kind != "good"):
                names = odd_names
            folder = draw(st.sampled_from(names))
            folder = f"{folder}{index}" if names is DEFECTS else folder
            _add_images(draw, category, split, kind, folder, num_masks, odd_folder)
    return category


def _add_images(draw, category, split, kind, folder, num_masks, odd):
    inner = draw(st.sampled_from(("", "", "cam1/", "a/b/", "Masks/", "test/", "x.png/", *(("good/", "ok/") * odd))))
    stem = draw(st.sampled_from(ODD_STEMS if odd else STEMS))
    first = 0 if odd and draw(st.booleans()) else {"train": 100, "val": 200, "test": 300}[split]
    same = odd and draw(st.booleans())
    for number in range(draw(st.integers(2, 3) if split == "train" else st.integers(1, 2))):
        suffix = draw(st.sampled_from(tuple(ENCODINGS)))
        path = f"{folder}/{inner}{stem}{first + (0 if same else number)}{suffix}"
        if all(sample.path != f"{category.name}/{category.folders[split]}/{path}" for sample in category.samples):
            masked = num_masks if kind != "good" else 0
            category.add(split, kind, path, masked=masked, encoding=ENCODINGS[suffix], odd=odd)


@st.composite
def harmless(draw):
    """Draw a plan of one or two categories that mean just one thing."""
    names = draw(st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=2, unique=True))
    parts = [draw(categories(name)) for name in names]
    for category in parts:
        for name in draw(st.lists(st.sampled_from(SILENT_FILES), max_size=2)):
            category.extras.append(Extra(f"{draw(_folders(category))}/{name}", b"text"))
    return _plan(parts, draw(st.booleans()))


@st.composite
def any_layout(draw):
    """Draw a plan with odd parts."""
    names = draw(st.lists(st.sampled_from((*CATEGORIES, "NUT", "é", "e\u0301")), min_size=1, max_size=2, unique=True))
    parts = [draw(categories(name, odd=draw(st.booleans()))) for name in names]
    for category in parts:
        for _ in range(draw(st.integers(0, 2))):
            draw(st.sampled_from(ODDITIES))(draw, category)
    return _plan(parts, draw(st.booleans()))


def _plan(parts, linked):
    return Plan(
        tuple(sample for part in parts for sample in part.samples),
        tuple(extra for part in parts for extra in part.extras),
        linked=linked,
    )


def _folders(category):
    """Draw any folder of a category."""
    folders = {category.name}
    for sample in category.samples:
        for path in (sample.path, *sample.masks):
            folders.add(path.rpartition("/")[0])
            folders.add("/".join(path.split("/")[:2]))
    return st.sampled_from(sorted(folders))


def _image():
    return save(Sample(99, "extra", "test", "defect", "").pixels())


def _file(draw, category):
    path = f"{draw(_folders(category))}/{draw(st.sampled_from(DUBIOUS_FILES))}"
    category.extras.append(Extra(path, b"text", silent=False))


def _broken_image(draw, category):
    name = draw(st.sampled_from(("x.png", "x_mask.png", "x.jpg", "x.tif", "x.webp", "x.bmp")))
    content = draw(st.sampled_from(BROKEN_FILES))
    category.extras.append(Extra(f"{draw(_folders(category))}/{name}", content, silent=False))


def _stray_image(draw, category):
    """An image where none belongs; in a folder of a kind, it would be one of its images."""
    folders = category.folders
    inner = [*folders.values(), f"{folders['masks']}/zzz", f"{folders['masks']}/good", "overview", ""]
    places = ["", *(f"{category.name}/{folder}" for folder in inner)]
    place = draw(st.sampled_from(places))
    category.extras.append(Extra(str(PurePath(place, "stray.png")), _image(), silent=False))


def _stray_mask(draw, category):
    """A mask beside an image, or one of no image."""
    sample = draw(st.sampled_from(category.samples))
    folder, name = sample.path.rpartition("/")[::2]
    if sample.masks and "/" not in category.mask_names[0] and draw(st.booleans()):
        folder, name = sample.masks[0].rpartition("/")[0], "zzz.png"
    category.extras.append(Extra(f"{folder}/{name.rpartition('.')[0]}_mask.png", save(sample.mask()), silent=False))


def _lost_mask(draw, category):
    """One image lacks its mask, though others of its split have theirs."""
    split = draw(st.sampled_from(("test", "val")))
    masked = [sample for sample in category.samples if sample.masks and sample.split == split and not sample.lost]
    if len(masked) > 1:
        sample = draw(st.sampled_from(masked))
        category.samples[sample.number] = replace(sample, lost=True, odd=True)


def _link(draw, category):
    target = draw(st.sampled_from(("gone", "link.png", "..", ".", "../..")))
    silent = target in {"..", ".", "../.."}
    name = draw(st.sampled_from(("link", "link.png")))
    category.extras.append(Extra(f"{draw(_folders(category))}/{name}", link=target, silent=silent))


def _double_folder(draw, category):
    """A second folder of the same role, or of the same kind in another case."""
    role = draw(st.sampled_from(("train", "test", "masks")))
    name = draw(spellings(role))
    if name != category.folders[role]:
        category.extras.append(Extra(f"{category.name}/{name}/good/double.png", _image(), silent=False))


def _empty_folder(draw, category):
    name = draw(st.sampled_from(("empty", "good", "val", "masks", "Test")))
    category.extras.append(Extra(f"{draw(_folders(category))}/{name}"))


ODDITIES = (
    _file,
    _broken_image,
    _stray_image,
    _stray_mask,
    _lost_mask,
    _link,
    _double_folder,
    _empty_folder,
)
