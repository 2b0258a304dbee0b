# SPDX-License-Identifier: Apache-2.0
"""Read image files as a training does, without torch."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile

from anomalib_vqflow.data.files import decoded_formats

BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF


def read(path: Path, bit_depth: int | None = None) -> np.ndarray:
    """Read an image as in training.

    Args:
        path: Image.
        bit_depth: Bits that images of 16 bits really use, for a model that takes images in [0, 1].

    Returns:
        RGB of shape ``(H, W, 3)``, of 8 bits or in [0, 1].

    Raises:
        Exception: One of ``UNREADABLE`` if the file is broken, or has more bits per color than the training had.
    """
    with path.open("rb") as file, Image.open(file, formats=decoded_formats()) as image:
        white = white_of(image)
        if white == 255:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        elif bit_depth is None:
            msg = "it has more than 8 bits per color, and the images of the training had not; convert it to 8 bits"
            raise ValueError(msg)
        else:
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                msg = "it has more than 8 bits per color and an orientation; store it upright"
                raise ValueError(msg)
            white = 2**bit_depth - 1 if white == 65535 else white
            pixels = read_deep(path)
    if pixels.max() > white:
        msg = f"it has values up to {pixels.max()}, but the range of the training ends at {white}"
        raise ValueError(msg)
    return pixels if bit_depth is None else (pixels / np.float32(white)).astype(np.float32)


def white_of(image: ImageFile) -> int:
    """Get the largest value that an image's format allows: 255, or more."""
    args = image.tile[0].args if image.tile else ""
    if image.format == "PPM" and image.mode != "F":
        return max(255, args[1] if isinstance(args, tuple) else 65535 if image.mode == "I" else 255)
    if image.format == "PNG":
        return 65535 if "16" in str(args) else 255
    bits = 8
    if image.format == "JPEG2000":
        image.fp.seek(0)  # type: ignore[union-attr]
        start = image.fp.read(1024)  # type: ignore[union-attr]
        header = start.find(b"ihdr")
        bits = (start[header + 14 if header >= 0 else start.find(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1
    elif tags := getattr(image, "tag_v2", None):
        bits = max(tags.get(BITS, (1,)))
        plain = set(tags.get(SAMPLE_FORMAT, (1,))) == {1} and tags.get(PLANAR, 1) == 1
        if bits == 16 and plain and tags.get(PHOTOMETRIC) in {1, 2}:
            return 65535
    if bits > 8 or image.mode.startswith(("I", "F")):
        msg = f"pixels of mode {image.mode}, {bits} bits or more, that are not read truly; convert it to 8-bit PNG"
        raise ValueError(msg)
    return 255


def read_deep(path: Path) -> np.ndarray:
    """Read an image of up to 16 bits per color, of shape ``(H, W, 3)``, which Pillow would cut down to 8."""
    try:
        import cv2
    except ImportError as error:
        msg = "it has more than 8 bits per color, for which OpenCV is needed: pip install opencv-python-headless"
        raise ValueError(msg) from error
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        msg = "OpenCV cannot read its 16 bits per color; it is broken, or must be converted to 8 bits"
        raise ValueError(msg)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., 2::-1]


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image of 8 bits or in [0, 1] to a height and width, unless it has them."""
    if pixels.shape[:2] == size:
        return pixels
    colors = [Image.fromarray(color) for color in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(color.resize(size[::-1], Image.Resampling.BILINEAR)) for color in colors], axis=2)
