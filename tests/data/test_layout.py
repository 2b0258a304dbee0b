# SPDX-License-Identifier: Apache-2.0
"""Files are empty here: what they are is told by their names alone."""

import re
import shutil

import pytest
from anomalib.data.utils import Split

from anomalib_vqflow.data.layout import read_layout

PLAIN = [
    *("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/hole/000.png", "test/hole/001.png"),
    *("ground_truth/hole/000_mask.png", "ground_truth/hole/001_mask.png"),
]


@pytest.fixture
def nut(tmp_path):
    """Make the category `nut` of the plain files and others, without some."""

    def make(*more, without=()):
        for name in [*PLAIN, *more]:
            if name not in without:
                (tmp_path / "nut" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "nut" / name).touch()
        return tmp_path / "nut"

    return make


def found(root):
    """List the images of every split with their label and masks, by their paths in the category."""
    layout = read_layout(root)
    assert not layout.notes
    return {
        split.value: {
            str(image.path.relative_to(root)): (image.normal, [str(mask.relative_to(root)) for mask in image.masks])
            for image in layout.images[split]
        }
        for split in Split
    }


def refused(root, *names):
    """Check that a category is refused with the names."""
    pattern = ".*".join(re.escape(name) for name in names)
    with pytest.raises(ValueError, match=pattern) as error:
        read_layout(root)
    return str(error.value)


def noted(root, *names):
    """Check that a category is read as the plain one, and that something else is named."""
    layout = read_layout(root)
    (note,) = layout.notes
    assert all(name in note for name in names), note
    plain = {path for path in PLAIN if not path.startswith("ground_truth")}
    assert {str(image.path.relative_to(root)) for split in Split for image in layout.images[split]} == plain


def test_plain_layout(nut):
    """Every file of the plain layout is what its folder says."""
    assert found(nut()) == {
        "train": {"train/good/000.png": (True, []), "train/good/001.png": (True, [])},
        "val": {},
        "test": {
            "test/good/000.png": (True, []),
            "test/hole/000.png": (False, ["ground_truth/hole/000_mask.png"]),
            "test/hole/001.png": (False, ["ground_truth/hole/001_mask.png"]),
        },
    }


@pytest.mark.parametrize("name", ["Good", "OK", "normal", "PASS", "non_defective", "good_images"])
def test_names_of_normal_images_mean_the_same_everywhere(nut, name):
    """Folders of other common names hold normal images in every split, together with `good`."""
    images = found(nut(f"train/{name}/5.png", f"val/{name}/6.png", f"test/{name}/7.png"))

    assert images["train"][f"train/{name}/5.png"] == (True, [])
    assert images["val"] == {f"val/{name}/6.png": (True, [])}
    assert images["test"][f"test/{name}/7.png"] == (True, [])


def test_folders_in_any_case(nut):
    """Names of splits and kinds may be written in capitals, and so may the folder of masks of a kind."""
    root, plain = nut(), found(nut())
    for old, new in (("train", "Train"), ("test", "TEST"), ("ground_truth/hole", "ground_truth/Hole")):
        (root / old).rename(root / new)
    (root / "ground_truth").rename(root / "Ground_Truth")

    images = found(root)

    assert {split: [label for label, _ in rows.values()] for split, rows in images.items()} == {
        split: [label for label, _ in rows.values()] for split, rows in plain.items()
    }
    assert images["test"]["TEST/hole/000.png"] == (False, ["Ground_Truth/Hole/000_mask.png"])


@pytest.mark.parametrize(
    ("folders", "named"),
    [(["gut"], ["train/gut"]), (["cam1/a"], ["train/cam1"]), (["a", "b"], ["train/a", "train/b"])],
)
def test_training_images_of_unknown_kind_are_asked_for(nut, folders, named):
    """Where no training folder has a name of normal images, an error names those there are, and what to do."""
    root = nut(*(f"train/{folder}/0.png" for folder in folders), without=PLAIN[:2])

    assert "to good" in refused(root, "'nut' has no normal training images", *named)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("without", [(), PLAIN])
def test_images_without_a_kind_are_refused(nut, split, without):
    """Images directly in the folder of a split are an error with their path, with and without others beside them."""
    refused(nut(f"{split}/x.png", without=without), "may be normal or anomalous", f"{split}/x.png", f"{split}/good")


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_normal_images_inside_a_kind_are_asked_for(nut, split):
    """A folder of normal images below one of unknown name is not taken for a defect."""
    refused(nut(f"{split}/cam1/good/0.png"), f"{split}/cam1/good/0.png may be normal", f"{split}/good/cam1")


def test_deeper_images_have_masks_at_the_mirrored_place(nut):
    """Images and masks lie equally deep, and belong to the folder of their kind."""
    defect = ["test/hole/cam1/0.gif", "ground_truth/hole/cam1/0_mask.png"]

    images = found(nut("test/good/cam1/0.png", "train/good/a/b/0.jp2", *defect))

    assert images["test"]["test/good/cam1/0.png"] == (True, [])
    assert images["test"]["test/hole/cam1/0.gif"] == (False, ["ground_truth/hole/cam1/0_mask.png"])
    assert "train/good/a/b/0.jp2" in images["train"]


def test_several_masks_of_an_image(nut):
    """All masks of an image are found: numbered ones, and those in a folder named like it."""
    more = [f"ground_truth/hole/{name}" for name in ("000/000.png", "000/001.png", "000_mask_2.png", "001_1.png")]

    images = found(nut(*more))["test"]

    masks = {name: [mask.removeprefix("ground_truth/hole/") for mask in masks] for name, (_, masks) in images.items()}
    assert masks["test/hole/000.png"] == ["000/000.png", "000/001.png", "000_mask.png", "000_mask_2.png"]
    assert masks["test/hole/001.png"] == ["001_1.png", "001_mask.png"]


@pytest.mark.parametrize("mask", ["hole/002_mask.png", "hole/000_other.png", "hole/cam1/000_mask.png", "000_mask.png"])
def test_masks_of_no_image_are_refused(nut, mask):
    """A mask in a kind with images that fits none of them is an error with its path, as is one outside of any kind."""
    refused(nut(f"ground_truth/{mask}"), "1 masks belong to no image", f"ground_truth/{mask}")


@pytest.mark.parametrize("place", ["ground_truth/hole/cam1/000_mask.png", "ground_truth/hole/000_mask.png"])
def test_missing_mask_is_named(nut, place):
    """An anomalous image without a mask, though others have some, is an error with both paths."""
    image = place.replace("ground_truth", "test").replace("_mask", "")

    message = refused(nut(image, without=[place]), "Expected a mask")

    assert image in message
    assert place in message


def test_folders_of_masks_in_a_split_are_told_where_they_may_be_kinds(nut):
    """A kind named like masks takes the masks of its split from the common folder; errors tell where they come from."""
    common = refused(nut("val/hole/2.png", "ground_truth/hole/2_mask.png", "val/mask/cam1/3.png"), "belong to no image")
    assert common.endswith("have theirs in " + str(nut() / "val/mask") + ".")
    shutil.rmtree(nut() / "val")
    own = refused(nut("test/mask/good/3.png"), "masks belong to no image", "ground_truth/hole/000_mask.png")
    assert own.endswith("have theirs in " + str(nut() / "test/mask") + ".")


def test_validation_images_have_masks_if_their_own_folder_holds_some(nut):
    """Masks of no image in a folder of their own tell that the validation images should have some."""
    root = nut("val/hole/7.png", "val/ground_truth/scratch/7.png")

    refused(root, f"Expected a mask in {root / 'val/ground_truth'} for the anomalous image {root / 'val/hole/7.png'}")


def test_a_mask_that_lacks_is_looked_for_where_others_are(nut):
    """If a split has masks of its own, an error for one that is missing tells their folder."""
    root = nut("test/mask/cam1/3.png", without=PLAIN[-2:])

    refused(root, f"Expected a mask in {root / 'test/mask'} for")


def test_masks_of_other_kinds_and_of_normal_images_are_named(nut):
    """Masks of a kind without images, and of normal images, change nothing, and are named."""
    noted(nut("ground_truth/scratch/000_mask.png"), "masks of no image", "ground_truth/scratch/000_mask.png")
    (nut() / "ground_truth/scratch/000_mask.png").unlink()
    noted(nut("ground_truth/good/000_mask.png"), "masks of normal images", "ground_truth/good/000_mask.png")


def test_masks_that_cannot_be_read_are_named(nut):
    """A category whose masks are in a format that can't be read counts as one without masks, and is told so."""
    root = nut("ground_truth/hole/000.npy", "ground_truth/hole/000.json", without=PLAIN[-2:])

    layout = read_layout(root)

    assert Split.TEST not in layout.with_masks
    assert "000.npy" in layout.notes[0]
    assert "holds none" in layout.notes[1]


def test_masks_among_images_are_refused(nut):
    """Masks beside their images are not taken for defects."""
    refused(nut("test/hole/000_mask.png"), "seems to be masks", "test/hole/000_mask.png of", "test/hole/000.png")


def test_masks_inside_a_split(nut):
    """A folder of masks in the folder of a split holds its masks, and is no kind of defect."""
    root = nut()
    (root / "ground_truth").rename(root / "test/ground_truth")

    images = found(root)["test"]

    assert images["test/hole/000.png"] == (False, ["test/ground_truth/hole/000_mask.png"])
    assert len(images) == 3


@pytest.mark.parametrize("val", ["val", "Validation", "valid"])
@pytest.mark.parametrize("masks", ["ground_truth/hole", "ground_truth/{val}/hole", "{val}/ground_truth/hole"])
def test_validation_images_and_their_masks(nut, val, masks):
    """A folder of validation images is read with masks in the common folder, or in one of their own."""
    mask = f"{masks.format(val=val)}/002_mask.png"

    images = found(nut(f"{val}/good/0.png", f"{val}/hole/002.png", mask))

    assert images["val"] == {f"{val}/good/0.png": (True, []), f"{val}/hole/002.png": (False, [mask])}
    assert images["test"] == found(nut())["test"]


def test_validation_images_named_like_test_images(nut):
    """Where a mask may be that of a validation or a test image, an error tells how to tell them apart, which works."""
    refused(nut("val/hole/000.png"), "fits both", "val/hole/000.png", "test/hole/000.png", "ground_truth/val")
    root = nut()
    (root / "ground_truth/hole").rename(root / "hole")
    (root / "ground_truth/test").mkdir()
    (root / "hole").rename(root / "ground_truth/test/hole")

    layout = read_layout(root)

    assert layout.with_masks == {Split.TEST}
    assert [len(image.masks) for image in layout.images[Split.TEST]] == [0, 1, 1]
    assert [len(image.masks) for image in layout.images[Split.VAL]] == [0]


@pytest.mark.parametrize("empty", ["ground_truth/test", "ground_truth/Val", "test/masks"])
def test_empty_folders_of_masks_mean_nothing(nut, empty):
    """A folder that would hold the masks of a split, but holds nothing, takes none from the common folder."""
    root, plain = nut(), found(nut())
    (root / empty).mkdir(parents=True)

    assert found(root) == plain


def test_two_folders_of_masks_for_one_split_are_refused(nut):
    """Masks of a split are in one folder."""
    root = nut("ground_truth/test/hole/000_mask.png", "test/masks/hole/000_mask.png")

    refused(root, "one folder of test masks", "test/masks", "ground_truth/test")


@pytest.mark.parametrize("name", ["test/dent/0.heic", "test/dent/cam1/0.dng", "train/good/0.npy"])
def test_a_folder_of_which_nothing_can_be_read_is_refused(nut, name):
    """Images of a format that cannot be read do not vanish: their folder is an error, not a note."""
    root = nut(name)
    for image in (root / "train/good").glob("*.png"):
        image.unlink()

    refused(root, name, "Convert them to PNG")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("train/scratch/0.png", "train/scratch"),
        ("train/gut/0.png", "train/gut"),
        ("train/masks/good/0.png", "train/masks"),
        ("test/hole/x.heic", "test/hole/x.heic"),
        ("test/x.zip", "test/x.zip"),
        ("test/empty/x.txt", "test/empty"),
        ("test_public/good/0.png", "test_public"),
        ("overview.png", "overview.png"),
        ("ground_truth/x.npy", "ground_truth/x.npy"),
    ],
)
def test_what_is_not_read_is_named(nut, name, named):
    """Files and folders that mean nothing change nothing, and are named."""
    noted(nut(name), named)


def test_texts_and_hidden_files_are_silent(nut):
    """Files that are no images going by their names are passed over without a word."""
    names = ["readme.txt", "license.txt", "test/Thumbs.db", "test/hole/000.json", "test/.DS_Store", ".cache/0.png"]

    assert found(nut(*names)) == found(nut())


def test_broken_link_is_named(nut):
    """A broken link in any folder is an error with its path."""
    root = nut()
    (root / "test/hole/003.png").symlink_to(root / "gone.png")

    refused(root, "test/hole/003.png is a broken link")


def test_linked_folders_are_read(nut, tmp_path):
    """A folder behind a link is read as if it were there."""
    root, plain = nut(), found(nut())
    (root / "test/hole").rename(tmp_path / "elsewhere")
    (root / "test/hole").symlink_to(tmp_path / "elsewhere")

    assert found(root) == plain


def test_missing_folder_has_no_images(tmp_path):
    """A category that does not exist has nothing, and the datamodule says so."""
    assert not any(read_layout(tmp_path / "gone").images.values())
