# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import ExifTags, Image

from anomalib_vqflow.data.checks import check_images, check_masks, find_duplicates

from .folders import make_image, make_mask


def test_good_files_pass(tmp_path):
    """Color and grayscale images with fitting masks or none pass."""
    make_image(tmp_path / "a.png", 60, (20, 30))
    make_mask(tmp_path / "a_mask.png", (20, 30))
    make_image(tmp_path / "b.png", 60, mode="L")

    check_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")], [[str(tmp_path / "a_mask.png")], []])


def test_mask_of_another_size_is_named(tmp_path):
    """A mask of another size than its image is refused, with both sizes."""
    make_image(tmp_path / "a.png", 60, (20, 30))
    make_mask(tmp_path / "a_mask.png", (30, 20))

    with pytest.raises(ValueError, match=r"a_mask\.png is 30x20, its image .*a\.png is 20x30"):
        check_images([str(tmp_path / "a.png")], [[str(tmp_path / "a_mask.png")]])


def test_all_unreadable_files_are_counted_and_the_first_named(tmp_path):
    """Of many unreadable files, five are named and the others counted."""
    paths = [tmp_path / f"{index}.png" for index in range(7)]
    for path in paths:
        path.write_bytes(b"no image")

    with pytest.raises(ValueError, match=r"cannot read .*0\.png.*4\.png.*and 2 more"):
        check_images(list(map(str, paths)), [[]] * 7)


def test_missing_mask_file_is_named(tmp_path):
    """A mask that does not exist is refused, with its path."""
    make_image(tmp_path / "a.png", 60)

    with pytest.raises(ValueError, match=r"cannot read .*gone\.png"):
        check_images([str(tmp_path / "a.png")], [[str(tmp_path / "gone.png")]])


def test_pixels_without_a_range_are_refused(tmp_path):
    """Which value of a floating-point image is white is not known."""
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tiff")

    with pytest.raises(ValueError, match=r"a\.tiff .*32 bits.*convert it to 8-bit"):
        check_images([str(tmp_path / "a.tiff")], [[]])


def test_special_images_are_told(tmp_path):
    """Whoever has images that are turned, or of which only the first frame is read, gets to know it."""
    image = Image.new("RGB", (8, 6), "red")
    image.getexif()[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.jpg", exif=image.getexif())
    image.save(tmp_path / "b.gif", save_all=True, append_images=[Image.new("RGB", (8, 6))])

    with pytest.warns(UserWarning, match="files") as warned:
        check_images([str(tmp_path / "a.jpg"), str(tmp_path / "b.gif")], [[], []])

    turned, frames = (str(warning.message) for warning in warned)
    assert "turned upright" in turned
    assert f"{tmp_path / 'a.jpg'}." in turned
    assert "first is used" in frames
    assert f"{tmp_path / 'b.gif'}." in frames


def test_a_mask_fits_the_upright_image(tmp_path):
    """A mask is compared with its image as it is read, and one for the pixels as they are stored is named."""
    image = Image.new("RGB", (8, 6))
    image.getexif()[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.jpg", exif=image.getexif())
    make_mask(tmp_path / "upright.png", (6, 8))
    make_mask(tmp_path / "stored.png", (8, 6))

    with pytest.warns(UserWarning, match="turned upright"):
        check_images([str(tmp_path / "a.jpg")], [[str(tmp_path / "upright.png")]])
    with pytest.raises(ValueError, match=r"stored\.png is 8x6, its image .*a\.jpg is 6x8, turned upright"):
        check_images([str(tmp_path / "a.jpg")], [[str(tmp_path / "stored.png")]])


@pytest.mark.parametrize(
    ("pixels", "fault"),
    [
        (np.zeros((8, 8)), "hold no defect"),
        (np.pad(np.zeros((4, 4)), 2, constant_values=255), "cover most of their image"),
        (np.pad(np.arange(48).reshape(6, 8), ((0, 10), (0, 8))), "more than 32 gray values"),
    ],
)
def test_masks_of_strange_content_are_named(tmp_path, pixels, fault):
    """A mask without defect, one that seems inverted, and one that is a picture, are told."""
    path = tmp_path / "mask.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)

    with pytest.warns(UserWarning, match=rf"{fault}.*: {path}"):
        check_masks([str(path)])


@pytest.mark.filterwarnings("error")
def test_ordinary_masks_are_not_mentioned(tmp_path):
    """Masks of two values, of class numbers and of smooth edges in JPEG are fine."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[2:6, 3:7] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels // 85).save(tmp_path / "b.png")
    Image.fromarray(pixels).save(tmp_path / "c.jpg")

    check_masks([str(path) for path in sorted(tmp_path.iterdir())])


def test_duplicates_are_found_by_content(tmp_path):
    """A test image with the content of a training image is found under another name."""
    make_image(tmp_path / "train.png", 60)
    make_image(tmp_path / "other.png", 90)
    (tmp_path / "test.png").write_bytes((tmp_path / "train.png").read_bytes())

    pairs = find_duplicates([str(tmp_path / "train.png")], [str(tmp_path / "other.png"), str(tmp_path / "test.png")])

    assert pairs == [(str(tmp_path / "train.png"), str(tmp_path / "test.png"))]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_cut_off_file_is_named_and_trailing_bytes_are_harmless(tmp_path, suffix):
    """A file that was copied in part is refused at setup; one with something after its end is not."""
    make_image(tmp_path / f"whole.{suffix}", 60, (128, 128))
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"long.{suffix}").write_bytes(content + bytes(200))
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) * 9 // 10])

    check_images([str(tmp_path / f"{name}.{suffix}") for name in ("whole", "long")], [[], []])
    if suffix != "bmp":  # it has no marker at its end
        with pytest.raises(ValueError, match=rf"cannot read .*cut\.{suffix}"):
            check_images([str(tmp_path / f"cut.{suffix}")], [[]])
