# SPDX-License-Identifier: Apache-2.0
"""An image is the same, whatever the file it is stored in, or its file is named."""

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

from anomalib_vqflow.data.reading import (
    inspect_mask,
    opened,
    read_header,
    read_image,
    read_mask,
    upright_size,
)

HEIGHT, WIDTH = 6, 9
TURNS = {  # orientation in EXIF: how an upright picture is stored
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def levels(image):
    """Turn an image in [0, 1] into the pixels that it was made of."""
    scaled = 255 * image.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(scaled, scaled.round(), atol=1e-4)
    return scaled.round()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tga", "ppm", "webp", "jp2"])
def test_formats_that_lose_nothing_give_the_pixels(tmp_path, pixels, suffix):
    """An image is in [0, 1], exactly as stored."""
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)

    assert np.array_equal(levels(read_image(tmp_path / f"a.{suffix}")), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_upright(tmp_path, pixels, orientation, suffix):
    """However a picture is stored, its orientation is undone, and its header tells so before it is decoded."""
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](pixels)))
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=stored.getexif(), **({"lossless": True} if suffix == "webp" else {}))

    assert np.array_equal(levels(read_image(path)), pixels)
    with opened(path) as image:
        assert upright_size(image) == (WIDTH, HEIGHT)
        assert read_header(image).is_turned == (orientation != 1)


def test_an_orientation_behind_the_pixels_is_found(tmp_path, pixels):
    """Some programs write EXIF at the end of a PNG."""
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(pixels).save(tmp_path / "early.png", exif=exif)
    content = (tmp_path / "early.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    plain = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "late.png").write_bytes(plain[:-12] + content[start:end] + plain[-12:])

    assert np.array_equal(levels(read_image(tmp_path / "late.png")), pixels[::-1, ::-1])
    with opened(tmp_path / "late.png") as image:
        assert read_header(image).is_turned


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_images_are_scaled_by_their_range(tmp_path, bits, suffix, colors):
    """16-bit files of a camera of fewer bits have its white at 1; without a known range they are refused."""
    deep = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, colors), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        cv2.imwrite(str(path), deep[..., ::-1])
    else:
        tifffile.imwrite(path, deep.squeeze(), photometric="rgb" if colors == 3 else "minisblack")
    expected = torch.from_numpy(deep.astype(np.float32) / np.float32(2**bits - 1)).permute(2, 0, 1).expand(3, -1, -1)

    assert torch.equal(torch.as_tensor(read_image(path, bits)), expected)
    with pytest.raises(ValueError, match=rf"{path} .*16 bits per color"):
        read_image(path)
    if bits > 10:
        with pytest.raises(ValueError, match=rf"{path} .*range of its training ends at 1023"):
            read_image(path, 10)


def test_a_format_that_tells_its_range_needs_no_other(tmp_path):
    """White of a PPM stands in its header."""
    deep = np.full((HEIGHT, WIDTH), 500, ">u2")
    (tmp_path / "a.pgm").write_bytes(f"P5 {WIDTH} {HEIGHT} 1000\n".encode() + deep.tobytes())

    assert read_image(tmp_path / "a.pgm").unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, np.float32), ({}, np.uint32), ({}, np.int16), ({"photometric": "miniswhite"}, np.uint16)],
)
def test_pixels_that_would_be_misread_are_refused(tmp_path, options, dtype):
    """What has no range, or means something else than brightness, is named."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), dtype), **options)

    with pytest.raises(ValueError, match=rf"{tmp_path / 'a.tif'} .*convert it to 8-bit PNG"):
        read_image(tmp_path / "a.tif", 16)


def test_a_deep_image_that_is_turned_is_refused(tmp_path):
    """Who decodes 16 bits per color does not turn."""
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16))
    image.getexif()[ExifTags.Base.Orientation] = 3
    image.save(tmp_path / "a.png", exif=image.getexif())

    with pytest.raises(ValueError, match=rf"{tmp_path / 'a.png'} .*store it upright"):
        read_image(tmp_path / "a.png", 16)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_broken_files_are_named(tmp_path, content):
    """Whatever is wrong with a file, its path is told."""
    (tmp_path / "a.png").write_bytes(content)

    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf"cannot read {tmp_path / 'a.png'} "):
            read(tmp_path / "a.png")


DEFECT = np.zeros((HEIGHT * 4, WIDTH * 4), dtype=bool)
DEFECT[8:16, 8:24] = True


def palette_mask(background, defect, **options):
    image = Image.fromarray(DEFECT.astype(np.uint8), mode="P")
    image.putpalette([*background, *defect])
    return image, options


def rgba_mask(background, defect):
    return Image.fromarray(np.where(DEFECT[..., None], *np.uint8([defect, background])), mode="RGBA"), {}


MASKS = {
    "gray": (Image.fromarray(DEFECT.astype(np.uint8) * 255), {}),
    "ones": (Image.fromarray(DEFECT.astype(np.uint8)), {}),
    "class 3": (Image.fromarray(DEFECT.astype(np.uint8) * 3), {}),
    "bits": (Image.fromarray(DEFECT), {}),
    "16 bits": (Image.fromarray(DEFECT.astype(np.uint16)), {}),
    "32 bits": (Image.fromarray(DEFECT.astype(np.int32)), {}),
    "one color": (Image.fromarray(np.uint8([0, 0, 200]) * DEFECT[..., None]), {}),
    "palette": palette_mask((0, 0, 0), (128, 0, 0)),
    "palette without black": palette_mask((200, 200, 255), (128, 0, 0)),
    "transparent palette": palette_mask((255, 255, 255), (255, 0, 0), transparency=0),
    "transparent": rgba_mask((255, 255, 255, 0), (255, 255, 255, 255)),
    "transparent colors": rgba_mask((255, 0, 0, 0), (255, 0, 0, 90)),
    "opaque": rgba_mask((0, 0, 0, 255), (255, 255, 255, 255)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_what_is_neither_black_nor_transparent(tmp_path, kind):
    """However a mask is encoded without loss, its defect is the same."""
    image, options = MASKS[kind]
    path = tmp_path / ("a.tif" if kind == "32 bits" else "a.png")
    image.save(path, **options)

    assert torch.equal(read_mask(path), torch.from_numpy(DEFECT))
    assert inspect_mask(path).share == DEFECT.mean()


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_a_lossy_mask_keeps_its_area(tmp_path, suffix, quality):
    """What compression smears around a defect is not counted."""
    defect = np.kron(DEFECT, np.ones((4, 4), bool))
    Image.fromarray(defect.astype(np.uint8) * 255).save(tmp_path / f"a.{suffix}", quality=quality)

    area = read_mask(tmp_path / f"a.{suffix}").sum().item()

    assert abs(area - defect.sum()) < 0.03 * defect.sum()


@pytest.mark.parametrize("orientation", TURNS)
def test_masks_are_upright(tmp_path, orientation):
    """A mask is turned as its image is."""
    image = Image.fromarray(np.ascontiguousarray(TURNS[orientation](DEFECT)).astype(np.uint8) * 255)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "a.png", exif=image.getexif())

    assert torch.equal(read_mask(tmp_path / "a.png"), torch.from_numpy(DEFECT))


def test_whatever_error_comes_of_a_broken_file_tells_its_path(tmp_path):
    """Pillow raises other errors than those of files, such as at a second frame that is cut off."""
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH), gray, np.uint8)) for gray in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    kinds = set()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        try:
            read_image(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            kinds.add(type(error.__cause__))
    assert IndexError in kinds
