# SPDX-License-Identifier: Apache-2.0
"""Strategies for how a mask is stored: values, colors, transparency, formats, and what is wrong with it."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from .formats import TURNS, in_mode
from .plans import EXACT, Encoding, save

BORDER = 0.1  # of the pixels; a mask is a seventh
COLORS = st.sampled_from(((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 1), (90, 90, 90), (0, 200, 90)))
GRAYS = st.sampled_from((0, 1, 2, 7, 100, 127, 128, 200, 254, 255))


def _file(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@st.composite
def _gray(draw):
    """Two gray values, or two of 16 or 32 bits, or two floating-point numbers."""
    back, front = draw(GRAYS), draw(GRAYS)
    kind, dtype, scale = draw(
        st.sampled_from(
            (
                *(("PNG", "uint8", 1), ("PNG", "uint16", 1), ("PNG", "uint16", 257), ("BMP", "uint8", 1)),
                *(("TIFF", "uint16", 1), ("TIFF", "uint16", 256), ("TIFF", "int32", 1), ("TIFF", "float32", 1 / 255)),
                *(("GIF", "uint8", 1), ("TGA", "uint8", 1), ("PPM", "uint8", 1), ("PPM", "uint16", 256)),
                *(("WEBP", "uint8", 1), ("JPEG2000", "uint8", 1), ("TIFF", "float32", 1)),
            )
        )
    )
    options = {"lossless": True} if kind == "WEBP" else {}

    def encode(mask):
        pixels = (np.where(mask, front, back) * scale).astype(dtype)
        return _file(
            Image.fromarray(np.repeat(pixels[..., None], 3, axis=2) if kind == "WEBP" else pixels), kind, **options
        )

    return kind, Encoding(f"{kind} {dtype} {back}/{front} times {scale}", encode, odd=True)


@st.composite
def _color(draw):
    """Two colors, one or both of which may be transparent."""
    back, front = draw(COLORS), draw(COLORS)
    alphas = draw(st.sampled_from(((255, 255), (0, 255), (0, 128), (255, 0), (1, 255))))
    kind = draw(st.sampled_from(("PNG", "TIFF", "TGA", "WEBP", "LA", "key")))

    def encode(mask):
        colors = np.array([(*back, alphas[0]), (*front, alphas[1])], np.uint8)
        image = Image.fromarray(colors[(mask > 0).astype(int)])
        if kind == "LA":
            return _file(image.convert("LA"), "PNG")
        if kind == "key":
            return _file(image.convert("RGB"), "PNG", transparency=back)
        return _file(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))

    return kind if kind not in {"LA", "key"} else "PNG", Encoding(f"{kind} {back}/{front} {alphas}", encode, odd=True)


@st.composite
def _palette(draw):
    """Two indices into a palette, perhaps with a transparent one."""
    back, front = draw(st.sampled_from(((0, 1), (0, 7), (1, 0), (3, 4))))
    colors = {back: draw(COLORS), front: draw(COLORS)}
    kind, options = draw(st.sampled_from((("PNG", {}), ("PNG", {"transparency": back}), ("GIF", {}), ("TIFF", {}))))

    def encode(mask):
        image = Image.fromarray(np.where(mask, front, back).astype(np.uint8)).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([value for index in range(8) for value in colors.get(index, (10 + index, 50, 0))])
        return _file(image, kind, **options)

    return kind, Encoding(f"{kind} palette {back}/{front} of {colors} {options}", encode, odd=True)


@st.composite
def _lossy(draw):
    """A mask in a format that smears."""
    kind = draw(st.sampled_from(("JPEG", "WEBP", "AVIF")))
    quality = draw(st.integers(60, 100))
    back, front = draw(
        st.sampled_from((((0, 0, 0), (255, 255, 255)), ((0, 0, 0), (255, 0, 0)), ((0, 0, 0), (1, 1, 1))))
    )
    gray = draw(st.booleans()) and front[0] == front[1]

    def encode(mask):
        image = Image.fromarray(np.array([back, front], np.uint8)[(mask > 0).astype(int)])
        return _file(image.convert("L") if gray else image, kind, quality=quality)

    return kind, Encoding(f"{kind} {quality} {front} gray {gray}", encode, tolerance=BORDER, odd=True)


@st.composite
def _mode(draw):
    """Black and white in any mode of Pillow, upright or not."""
    kind, mode = draw(
        st.sampled_from(
            (
                *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
                *(("TIFF", mode) for mode in ("1", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "YCbCr")),
                *(("BMP", mode) for mode in ("1", "P", "RGB", "RGBA")),
            )
        )
    )
    turn = draw(st.sampled_from(tuple(TURNS))) if kind != "BMP" else 1
    exif = Image.Exif()
    exif[274] = turn
    options = {"exif": exif.tobytes()} if turn > 1 else {}

    def encode(mask):
        turned = np.ascontiguousarray(TURNS[turn](np.repeat(mask[..., None], 3, axis=2)))
        return _file(in_mode(turned, mode), kind, **options)

    return kind, Encoding(f"{kind} {mode} turned {turn}", encode, odd=True)


FAULTS = {
    "black": lambda mask: save(0 * mask),
    "white": lambda mask: save(0 * mask + 255),
    "inverted": lambda mask: save(255 - mask),
    "inverted 1": lambda mask: save((mask == 0).astype(np.uint8)),
    "smaller": lambda mask: save(mask[1:]),
    "on its side": lambda mask: save(mask.T.copy()),
    "doubled": lambda mask: save(mask.repeat(2, 0).repeat(2, 1)),
    "cut off": lambda mask: save(mask)[:60],
    "cut off JPEG": lambda mask: save(mask, "JPEG")[:-20],
    "empty": lambda _: b"",
    "text": lambda _: b"this is no image",
    "soft": lambda mask: save(np.where(mask, 255, np.arange(mask.size).reshape(mask.shape) % 90).astype(np.uint8)),
}
SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2"}


@st.composite
def mask_files(draw):
    """Draw a suffix and an encoding of a mask."""
    if draw(st.integers(0, 3)) == 0:
        fault = draw(st.sampled_from(sorted(FAULTS)))
        return ".png", Encoding(fault, FAULTS[fault], tolerance=EXACT, odd=True)
    kind, encoding = draw(st.one_of(_gray(), _color(), _palette(), _lossy(), _mode()))
    return SUFFIXES.get(kind, f".{kind.lower()}"), encoding
