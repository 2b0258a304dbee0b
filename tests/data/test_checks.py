# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from anomalib_vqflow.data.checks import check_images, find_duplicates

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


def test_sixteen_bit_grayscale_is_refused_because_anomalib_clips_it(tmp_path):
    """16-bit grayscale, which anomalib would read as white, is refused."""
    Image.fromarray(np.full((8, 8), 1000, dtype=np.uint16)).save(tmp_path / "a.png")

    with pytest.raises(ValueError, match=r"a\.png has more than 8 bits.*convert it to 8-bit"):
        check_images([str(tmp_path / "a.png")], [[]])


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
