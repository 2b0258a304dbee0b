# SPDX-License-Identifier: Apache-2.0
"""The reader of exported models, which needs no torch, reads what a training reads, or refuses it, too."""

import cv2
import numpy as np
import PIL
import pytest
import tifffile
from packaging.version import Version
from PIL import Image

from anomalib_vqflow.data import read_image
from anomalib_vqflow.prediction.pixels import read

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (12, 18, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (12, 18, 4), dtype=np.uint16)


def in_mode(mode, suffix="png", **options):
    return suffix, lambda path: Image.fromarray(COLOR).convert(mode).save(path, **options)


def turned(orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return suffix, lambda path: Image.fromarray(COLOR).save(path, exif=exif)


def deep(suffix, channels):
    return suffix, lambda path: cv2.imwrite(str(path), DEEP[..., :channels].squeeze())


def tiff(pixels, **options):
    return "tif", lambda path: tifffile.imwrite(path, pixels, **options)


def late_turned(path):
    """Write a PNG whose orientation stands behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOR).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    at = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:at] + content[start:end] + content[at:])


EIGHT_BITS = {
    **{mode: in_mode(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "CMYK": in_mode("CMYK", "jpg"),
    # Pillow 12 cannot read those without compression that it writes.
    "YCbCr": in_mode("YCbCr", "tif", **({} if Version(PIL.__version__).major >= 13 else {"compression": "tiff_lzw"})),
    "transparent palette": in_mode("P", transparency=3),
    "frames": (
        "gif",
        lambda path: Image.fromarray(COLOR).save(path, save_all=True, append_images=[Image.new("L", (18, 12))]),
    ),
    **{
        f"{suffix} {turn}": turned(turn, suffix) for suffix in ("png", "jpg", "tif", "webp") for turn in (2, 3, 5, 6, 8)
    },
    "late EXIF": ("png", late_turned),
    "JPEG 2000": in_mode("RGB", "jp2"),
}
SIXTEEN_BITS = {
    **{f"{suffix} {channels}": deep(suffix, channels) for suffix in ("png", "tif") for channels in (1, 3, 4)},
    "pgm": deep("pgm", 1),
    "big-endian TIFF": tiff(DEEP[..., 0], byteorder=">"),
    "compressed TIFF": tiff(DEEP[..., :3], compression="zlib"),
}
UNKNOWN = {
    "floats": tiff(DEEP[..., 0].astype(np.float32)),
    "32 bits": tiff(DEEP[..., 0].astype(np.uint32)),
    "signed": tiff(DEEP[..., 0].astype(np.int16)),
    "planes": tiff(DEEP[..., :3].transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "white is zero": tiff(DEEP[..., 0], photometric="miniswhite"),
    "no image": ("png", lambda path: path.write_text("no image")),
}


def write(case, folder):
    suffix, save = case
    save(folder / f"image.{suffix}")
    return folder / f"image.{suffix}"


@pytest.mark.parametrize("case", EIGHT_BITS.values(), ids=EIGHT_BITS)
@pytest.mark.parametrize("bit_depth", [None, 12])
def test_images_of_eight_bits_are_read_alike(tmp_path, case, bit_depth):
    """The same pixels, as integers or, for a model that takes images of more bits, as they are."""
    path = write(case, tmp_path)
    pixels = read(path, bit_depth=bit_depth)
    assert pixels.dtype == (np.float32 if bit_depth else np.uint8)
    expected = read_image(path, bit_depth).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels if bit_depth else pixels / 255, expected, atol=1e-6)


@pytest.mark.parametrize("case", SIXTEEN_BITS.values(), ids=SIXTEEN_BITS)
def test_images_of_sixteen_bits_are_read_alike(tmp_path, case):
    """In the range of the training; a model that knows none takes none."""
    path = write(case, tmp_path)
    np.testing.assert_array_equal(read(path, bit_depth=12), read_image(path, 12).permute(1, 2, 0))
    np.testing.assert_array_equal(read(path, bit_depth=14), read_image(path, 14).permute(1, 2, 0))
    assert read_image(path, 12).max() > 0.9
    with pytest.raises(ValueError, match="more than 8 bits"):
        read(path)


def test_a_range_that_the_file_tells_is_used(tmp_path):
    """PGM and PPM tell theirs."""
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 18 12 1023\n" + (DEEP[..., 0] // 4).astype(">u2").tobytes())
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels[0], (DEEP[..., 0] // 4).astype(np.float32) / np.float32(1023))
    np.testing.assert_array_equal(read(path, bit_depth=12), pixels.permute(1, 2, 0))


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN)
def test_both_refuse_the_same(tmp_path, case):
    """What has no range, or is no image."""
    path = write(case, tmp_path)
    with pytest.raises(ValueError, match="cannot read"):
        read_image(path, 12)
    with pytest.raises((OSError, ValueError)):
        read(path, bit_depth=12)


def test_both_refuse_what_is_too_bright(tmp_path):
    """Values beyond the range of the training."""
    path = write(deep("png", 1), tmp_path)
    with pytest.raises(ValueError, match="the range of its training ends at 1023"):
        read_image(path, 10)
    with pytest.raises(ValueError, match="the range of the training ends at 1023"):
        read(path, bit_depth=10)
