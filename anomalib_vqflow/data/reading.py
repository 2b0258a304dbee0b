# SPDX-License-Identifier: Apache-2.0
"""Read image and mask files: upright, in their true range, and the same wherever a file is read."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from .files import decoded_formats

BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
DARK_IS_ZERO = frozenset({1, 2})  # photometric interpretations: gray and RGB
LOSSY = frozenset({"AVIF", "JPEG", "JPEG2000", "MPO"})  # and WebP of one kind
EIGHT_BITS, SIXTEEN_BITS = 255, 65535
LATE_BYTES = 4096  # at the end of a PNG, where some programs write EXIF
LIES_FROM = 5  # orientations from here on are turned by a quarter

T = TypeVar("T")


class Header(NamedTuple):
    """What a file says of its image."""

    white: int  # largest value that the format allows: 255, or more for deep images
    is_turned: bool  # whether its pixels are stored in another orientation
    has_frames: bool  # whether it has several frames or pages, of which only the first is read

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits per color."""
        return self.white > EIGHT_BITS

    @property
    def is_plain(self) -> bool:
        """Whether other readers, such as anomalib's, read the same pixels."""
        return self.white == EIGHT_BITS and not self.is_turned


class MaskContent(NamedTuple):
    """What a mask holds."""

    share: float  # of its pixels that are defective
    num_values: int  # different gray values; 2 where they do not matter


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[ImageFile]:
    """Open an image; whatever is wrong with it becomes a ``ValueError`` that names the file.

    Args:
        path: File.

    Yields:
        The image, not loaded yet.

    Raises:
        ValueError: If the file cannot be opened, or is found to be broken later.
    """
    try:
        # Given a path, Pillow maps uncompressed files into memory, and garbles TIFF that is stored on its side.
        with Path(path).open("rb") as file, Image.open(file, formats=decoded_formats()) as image:
            yield image
    except Exception as error:  # Pillow's readers raise almost any at files that are broken
        reason = "no image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        msg = f"cannot read {path} ({reason})"
        raise ValueError(msg) from error


def read_header(image: ImageFile) -> Header:
    """Tell what matters of an image that is opened, but not loaded.

    Args:
        image: What ``PIL.Image.open`` gives.

    Returns:
        The header.

    Raises:
        ValueError: If the image has a kind of pixels that has no range, or that is not read truly.
    """
    white, is_turned = _white(image), orientation(image) != 1  # in this order, as the latter may load the image
    if is_turned and white > EIGHT_BITS:
        msg = "more than 8 bits per color and an orientation; store it upright"
        raise ValueError(msg)
    return Header(white, is_turned, bool(getattr(image, "is_animated", False)))


def orientation(image: ImageFile) -> int:
    """Get the orientation that EXIF or TIFF tell, as soon as an image is opened.

    Args:
        image: What :func:`opened` gives.

    Returns:
        1 for an upright image, up to 8 for others.
    """
    # Pillow would load every PNG to look behind its pixels.
    if image.format == "PNG" and "exif" not in image.info and not _has_late_exif(image):
        return 1
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def upright_size(image: ImageFile) -> tuple[int, int]:
    """Get width and height of an opened image as :func:`read_image` reads it, in pixels."""
    lies = orientation(image) >= LIES_FROM and image.format != "TIFF"  # whose size Pillow has turned already
    return image.size[::-1] if lies else image.size


def read_image(path: str | PathLike[str], bit_depth: int | None = None) -> Tensor:
    """Read an image upright, with its first frame if it has several.

    Args:
        path: File.
        bit_depth: Bits that files of 16 bits really use, such as 12; None if that is not known.

    Returns:
        RGB of shape ``(3, H, W)``, in [0, 1].

    Raises:
        ValueError: If the file cannot be read, or its range is not known or exceeded; the message names it.
    """
    with opened(path) as image:
        white = read_header(image).white
        if white == EIGHT_BITS:
            ImageOps.exif_transpose(image, in_place=True)
            return to_dtype(to_image(image.convert("RGB")), torch.float32, scale=True)
        if white == SIXTEEN_BITS:
            if bit_depth is None:
                msg = "16 bits per color, of which the training does not tell how many are used; convert it to 8 bits"
                raise ValueError(msg)
            white = 2**bit_depth - 1
        pixels = read_deep(path)
        if (brightest := int(pixels.max())) > white:
            msg = f"values up to {brightest}, but the range of its training ends at {white}; train with `bit_depth`"
            raise ValueError(msg)
        return tv_tensors.Image(torch.from_numpy(pixels.astype(np.float32) / np.float32(white)).permute(2, 0, 1))


def read_deep(path: str | PathLike[str]) -> np.ndarray:
    """Read an image of up to 16 bits per color, which Pillow would cut down to 8.

    Args:
        path: File.

    Returns:
        RGB of shape ``(H, W, 3)``, as stored.

    Raises:
        ValueError: If OpenCV cannot read the file.
    """
    content = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # no imread: it fails at some names
    if pixels is None or pixels.dtype != np.uint16:
        msg = "OpenCV cannot read its 16 bits per color; it is broken, or must be converted to 8 bits"
        raise ValueError(msg)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., 2::-1]


def brightest(path: str | PathLike[str]) -> int:
    """Get the largest value of an image of up to 16 bits per color.

    Args:
        path: File.

    Returns:
        The value, as stored.

    Raises:
        ValueError: If OpenCV cannot read the file; the message names it.
    """
    with opened(path):
        return int(read_deep(path).max())


def read_mask(path: str | PathLike[str]) -> Tensor:
    """Read a mask upright: where it is neither black nor transparent there is a defect.

    Formats that lose detail smear black, so there it is what is at least half as bright as white. In a palette image
    without any black or transparent pixel, the first color is the background.

    Args:
        path: File.

    Returns:
        Booleans of shape ``(H, W)``.

    Raises:
        ValueError: If the file cannot be read; the message names it.
    """
    with opened(path) as image:
        return torch.from_numpy(np.ascontiguousarray(_is_defect(image, path)))


def inspect_mask(path: str | PathLike[str]) -> MaskContent:
    """Read a mask to find out what it holds.

    Args:
        path: File.

    Returns:
        The content.

    Raises:
        ValueError: If the file cannot be read; the message names it.
    """
    with opened(path) as image:
        is_gray = image.mode == "L" and not _is_lossy(image)
        share = float(_is_defect(image, path).mean())
        return MaskContent(share, len(image.getcolors() or ()) if is_gray else 2)


def in_threads(function: Callable[[str], T], paths: Sequence[str]) -> Iterator[T]:
    """Apply a function that reads a file to many files, in order; decoders leave Python's lock to others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, paths)


def _white(image: ImageFile) -> int:
    """Get the largest value that the format allows. That of 16 bits is often larger than that of the camera."""
    mode, args = image.mode, image.tile[0].args if image.tile else ""
    if image.format == "PPM" and mode != "F":
        return max(EIGHT_BITS, args[1] if isinstance(args, tuple) else SIXTEEN_BITS if mode == "I" else EIGHT_BITS)
    if image.format == "PNG":
        return SIXTEEN_BITS if "16" in str(args) else EIGHT_BITS
    bits = EIGHT_BITS.bit_length()
    if image.format == "JPEG2000":
        bits = _bits_of_jpeg2000(image)
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(BITS_PER_SAMPLE, (1,)))
        plain = set(tags.get(SAMPLE_FORMAT, (1,))) == {1} and tags.get(PLANAR_CONFIGURATION, 1) == 1
        if bits == SIXTEEN_BITS.bit_length() and plain and tags.get(PHOTOMETRIC) in DARK_IS_ZERO:
            return SIXTEEN_BITS
    if bits > EIGHT_BITS.bit_length() or mode.startswith(("I", "F")):
        msg = f"pixels of mode {mode}, {bits} bits or more, that are not read truly; convert it to 8-bit PNG"
        raise ValueError(msg)
    return EIGHT_BITS


def _has_late_exif(image: ImageFile) -> bool:
    here = image.fp.tell()  # type: ignore[union-attr]
    image.fp.seek(max(here, image.fp.seek(0, os.SEEK_END) - LATE_BYTES))  # type: ignore[union-attr]
    found = b"eXIf" in image.fp.read()  # type: ignore[union-attr]
    image.fp.seek(here)  # type: ignore[union-attr]
    return found


def _bits_of_jpeg2000(image: ImageFile) -> int:
    """Find the bits per color, which Pillow does not tell, in the first box or segment that has them."""
    image.fp.seek(0)  # type: ignore[union-attr]
    start = image.fp.read(1024)  # type: ignore[union-attr]
    header, size = start.find(b"ihdr"), start.find(b"\xff\x4f\xff\x51")
    at = header + 14 if header >= 0 else size + 42
    return (start[at] & 0x7F) + 1


def _is_defect(image: ImageFile, path: str | PathLike[str]) -> np.ndarray:
    smallest = 128 if _is_lossy(image) else 1
    if image.mode in {"RGB", "RGBA"} and read_header(image).white > EIGHT_BITS:
        visible = np.asarray(image.convert("RGBA"))[..., 3] > 0
        return visible & read_deep(path).any(axis=2)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in {"1", "L", "I", "F", "I;16", "I;16B"} and not image.has_transparency_data:
        return np.asarray(image) >= smallest if smallest > 1 else np.asarray(image) != 0
    rgba = np.asarray(image.convert("RGBA"))
    defect = (rgba[..., 3] > 0) & (rgba[..., :3].max(axis=2) >= smallest)
    if image.mode == "P" and defect.all():
        return np.asarray(image) != 0
    return defect


def _is_lossy(image: ImageFile) -> bool:
    if image.format != "WEBP":
        return image.format in LOSSY
    image.fp.seek(12)  # type: ignore[union-attr]
    return image.fp.read(4) == b"VP8 "  # type: ignore[union-attr]
