# SPDX-License-Identifier: Apache-2.0
from pathlib import Path, PurePath

import pytest

from anomalib_vqflow.data.masks import match_masks, named_as_mask


def match(images, masks):
    """Match files that lie where their names say."""
    found = match_masks(
        *(
            [(Path(kind, name), PurePath(name)) for name in names]
            for kind, names in (("images", images), ("masks", masks))
        )
    )
    by_image = {
        str(image.relative_to("images")): [str(m.relative_to("masks")) for m in masks]
        for image, masks in found.masks.items()
    }
    return by_image, [str(mask.relative_to("masks")) for mask in found.strays]


@pytest.mark.parametrize(
    "mask",
    [
        *("000.png", "000_mask.png", "000-mask.png", "000.mask.png", "000mask.png", "000_MASK.PNG", "000_gt.bmp"),
        *("000_ground_truth.png", "000_label.png", "000_mask_2.png", "000_mask2.png", "000_mask_scratch.png"),
        *("000_1.png", "000_1_mask.png", "000.jpg.png", "000.jpg_mask.png"),
        *("000/000.png", "000/anything.png", "000/deeper/1.png", "000_masks/1.png", "000.jpg/1.png"),
    ],
)
@pytest.mark.parametrize("place", ["", "cam1/"])
def test_masks_are_named_after_their_image(mask, place):
    """A mask beside the place of its image is found under every common name, a folder of masks, too."""
    image = f"{place}000.jpg"

    assert match([image, f"{place}001.jpg"], [place + mask]) == ({image: [place + mask]}, [])


@pytest.mark.parametrize("mask", ["00.png", "0000.png", "x000.png", "000_scratch.png", "mask_000.png", "000b_mask.png"])
def test_masks_of_other_names_are_strays(mask):
    """What only looks similar to the name of an image belongs to none."""
    assert match(["000.png"], [mask]) == ({}, [mask])


def test_masks_at_another_place_are_strays():
    """A mask has to lie where its image lies."""
    assert match(["cam1/000.png"], ["000_mask.png", "cam2/000_mask.png"]) == ({}, ["000_mask.png", "cam2/000_mask.png"])


def test_the_longest_name_wins():
    """A mask that fits two images belongs to the one that shares more of its name."""
    masks = ["000.png", "000_1.png", "000_1_mask.png", "000_2.png", "000_mask_1.png"]

    assert match(["000.png", "000_1.png"], masks) == (
        {"000.png": ["000.png", "000_2.png", "000_mask_1.png"], "000_1.png": ["000_1.png", "000_1_mask.png"]},
        [],
    )


def test_images_of_equal_stem_need_masks_with_suffix():
    """Where two images differ in their suffix only, a mask has to name it."""
    images = ["000.png", "000.jpg"]

    assert match(images, ["000.png_mask.png", "000.jpg_mask.png"]) == (
        {"000.png": ["000.png_mask.png"], "000.jpg": ["000.jpg_mask.png"]},
        [],
    )
    with pytest.raises(ValueError, match=r"masks/000_mask\.png fits both images/000\.png and images/000\.jpg"):
        match(images, ["000_mask.png"])


def test_masks_among_images_are_noticed():
    """An image named as the mask of another is told; numbered images and words of their own are not."""
    names = ("000.png", "000_mask.png", "000_1.png", "mask.png", "001_label.png", "001.png")
    images = [Path("k", name) for name in names]

    assert named_as_mask(images) == [(Path("k/000_mask.png"), Path("k/000.png"))]
