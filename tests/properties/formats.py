# SPDX-License-Identifier: Apache-2.0
"""Strategies for the format of an image file: what Pillow, OpenCV and tifffile write, and broken files."""

import io

import cv2
import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from .plans import EXACT, Encoding

LOSSY = 0.15
STEP = 1 / 255
FORMATS = {  # by suffix: Pillow's name, options, and modes that are written as they are
    ".png": ("PNG", {}, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}, ("L", "RGB", "CMYK", "YCbCr")),
    ".bmp": ("BMP", {}, ("1", "L", "P", "RGB", "RGBA")),
    ".tif": ("TIFF", {}, ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "YCbCr", "LAB", "RGBX")),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}, ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16")),
    ".webp": ("WEBP", {"lossless": True, "exact": True}, ("L", "RGB", "RGBA")),
    ".gif": ("GIF", {}, ("1", "L", "LA", "P", "RGB", "RGBA")),
    ".tga": ("TGA", {}, ("1", "L", "LA", "P", "RGB", "RGBA")),
    ".jp2": ("JPEG2000", {}, ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "YCbCr")),
    ".ppm": ("PPM", {}, ("1", "L", "RGB", "I", "F", "I;16")),
    ".pcx": ("PCX", {}, ("1", "L", "P", "RGB")),
    ".im": ("IM", {}, ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "YCbCr")),
    ".sgi": ("SGI", {}, ("L", "RGB", "RGBA")),
    ".dds": ("DDS", {}, ("L", "LA", "RGB", "RGBA")),
    ".qoi": ("QOI", {}, ("RGB", "RGBA")),
    ".mpo": ("MPO", {"quality": 95, "subsampling": 0}, ("L", "RGB", "CMYK", "YCbCr")),
    ".avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, ("L", "RGB", "RGBA")),
}
TURNED = {".png", ".jpg", ".tif", ".tiff", ".webp", ".mpo", ".avif"}
FRAMES = {".tif", ".tiff", ".gif", ".webp", ".png", ".mpo", ".avif"}
TURNS = {  # how the stored pixels come from the upright ones
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def gray(pixels: np.ndarray) -> np.ndarray:
    """Take one channel."""
    return pixels[..., 1]


def spread(channel: np.ndarray) -> np.ndarray:
    """Show a channel as RGB."""
    return np.repeat(channel[..., None], 3, axis=2)


def in_mode(pixels: np.ndarray, mode: str) -> Image.Image:
    """Bring pixels into a mode of Pillow, all opaque, gray ones by one channel, and of 16 bits in full range."""
    if mode in {"I", "I;16"}:
        return Image.fromarray(gray(pixels).astype(np.int32 if mode == "I" else np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(gray(pixels).astype(np.float32))
    if mode in {"1", "L"}:
        return Image.fromarray(gray(pixels)).convert(mode, dither=Image.Dither.NONE)
    if mode == "LA":
        return Image.fromarray(gray(pixels)).convert("LA")
    if mode in {"P", "PA"}:
        return Image.fromarray(pixels).quantize(16).convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", pixels.shape[1::-1], pixels.tobytes())
    if mode in {"RGBa", "RGBX"}:
        return Image.fromarray(pixels).convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    return Image.fromarray(pixels).convert(mode)


def shown(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Tell what an image in a mode shows, in 8-bit RGB."""
    if mode in {"I", "I;16", "F"}:
        return spread(gray(pixels))
    return np.asarray(in_mode(pixels, mode).convert("RGBA" if mode == "RGBa" else "RGB").convert("RGB"))


@st.composite
def pillow_files(draw):
    """Draw a format, a mode and an orientation that Pillow can write, perhaps with more frames or a profile."""
    suffix = draw(st.sampled_from(sorted(FORMATS)))
    turn = draw(st.sampled_from(tuple(TURNS) if suffix in TURNED else (1,)))
    several = suffix in FRAMES and (suffix, turn > 1) != (".avif", True) and draw(st.booleans())  # Pillow crashes
    kind, options, modes = FORMATS[suffix]
    mode = draw(st.sampled_from(modes))
    if turn > 1:
        exif = Image.Exif()
        exif[274] = turn
        options = {**options, "exif": exif.tobytes()}
    name = f"{suffix} {mode} turned {turn}{' several' * several}"

    def encode(pixels):
        frames = [in_mode(np.ascontiguousarray(TURNS[turn](frame)), mode) for frame in (pixels, 255 - pixels)]
        more = {"save_all": True, "append_images": frames[1:]} if several else {}
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, **options, **more)
        return buffer.getvalue()

    return suffix, Encoding(name, encode, lambda pixels: shown(pixels, mode), _tolerance(kind, mode), odd=True)


def _tolerance(kind: str, mode: str) -> float:
    if kind in {"JPEG", "MPO", "AVIF", "GIF"} or mode in {"YCbCr", "HSV", "CMYK"}:
        return LOSSY
    return STEP if mode in {"I", "I;16", "F"} or kind == "WEBP" else EXACT


@st.composite
def deep_files(draw):
    """Draw a file of 16 bits, gray or color, with or without alpha, which uses some of its bits."""
    suffix = draw(st.sampled_from((".png", ".tif", ".tiff", ".ppm")))
    bits = draw(st.sampled_from((8, 9, 10, 12, 14, 16)))
    channels = draw(st.sampled_from((3,) if suffix == ".ppm" else (1, 3, 4)))
    by_tifffile = suffix == ".tiff"
    photometric = draw(st.sampled_from(("minisblack", "miniswhite", "rgb"))) if by_tifffile else None
    dtype = draw(st.sampled_from(("uint16", "uint16", "int16", "float32", "uint32", "float16"))) if by_tifffile else ""
    planar = draw(st.sampled_from(("contig", "separate"))) if by_tifffile else None

    def encode(pixels):
        deep = np.round(pixels / 255.0 * (2**bits - 1)).astype(np.uint16)
        deep = deep[..., 1] if channels == 1 else deep
        if channels == 4:
            deep = np.concatenate([deep, np.full_like(deep[..., :1], 2**16 - 1)], axis=2)
        if by_tifffile:
            buffer = io.BytesIO()
            if channels == 1:
                kind = "minisblack" if photometric == "rgb" else photometric
                tifffile.imwrite(buffer, deep.astype(dtype), photometric=kind)
            elif planar == "separate":
                deep = np.ascontiguousarray(deep.transpose(2, 0, 1))
                tifffile.imwrite(buffer, deep.astype(dtype), photometric="rgb", planarconfig=planar)
            else:
                tifffile.imwrite(buffer, deep.astype(dtype), photometric="rgb")
            return buffer.getvalue()
        bgr = deep if channels == 1 else deep[..., [2, 1, 0, *range(3, channels)]]
        return cv2.imencode(suffix, np.ascontiguousarray(bgr))[1].tobytes()

    name = f"{suffix} {bits} of 16 bits, {channels} channels {dtype} {photometric} {planar}"
    show = (lambda pixels: spread(gray(pixels))) if channels == 1 else (lambda pixels: pixels)
    return suffix, bits, Encoding(name, encode, show, STEP, odd=True)


@st.composite
def broken_files(draw):
    """Draw a file that is cut off, empty, a text, or has some bytes changed."""
    # PCX ends with its palette, if it has one: without it, it is a whole file that shows something else.
    suffix, encoding = draw(pillow_files().filter(lambda file: file[0] != ".pcx"))
    share = draw(st.sampled_from((0.0, 0.01, 0.3, 0.5, 0.8, 0.95, 0.99)))
    text = draw(st.booleans())

    def encode(pixels):
        content = encoding.encode(pixels)
        return b"this is no image" * 9 if text and share else content[: int(len(content) * share)]

    return suffix, encoding._replace(name=f"{encoding.name}, {share:.0%} of it, text {text}", encode=encode)
