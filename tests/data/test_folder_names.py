# SPDX-License-Identifier: Apache-2.0
import pytest
from anomalib.data.utils import Split

from anomalib_vqflow.data.folder_names import TEST, TRAIN, VAL, find_roles, is_category, is_normal_name

NORMAL = [
    *("good", "Good", "GOOD", "ok", "OK", "o.k.", "okay", "i.O.", "normal", "Normal_2", "pass", "PASSED", "nominal"),
    *("non_defective", "Non-Defective", "defect-free", "defect free", "no_defect", "No Defects", "ok-parts"),
    *("good_images", "01_good", "good3", "normal samples", "anomaly_free", "flawless"),
]
ANOMALOUS = [
    *("scratch", "not_ok", "NOK", "n.i.O.", "not_good", "no_good", "abnormal", "defect", "defective", "anomaly", "bad"),
    *("fail", "goodbye", "broken_good", "0", "1", "images", "passivation", "abnormal_images", "нок", "négatif_ok"),
]


@pytest.mark.parametrize("name", NORMAL)
def test_common_names_of_normal_images(name):
    """Common names of normal images are known in any case, with signs, numbers, and what holds them."""
    assert is_normal_name(name)


@pytest.mark.parametrize("name", ANOMALOUS)
def test_other_names_are_not_normal(name):
    """A name that only contains a word for normal images is not one of them."""
    assert not is_normal_name(name)


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["train", "test", "ground_truth"], {"train", "test", "masks"}),
        (["Train", "TEST", "Validation", "Ground Truth"], {"train", "test", "val", "masks"}),
        (["training", "testing", "valid", "masks"], {"train", "test", "val", "masks"}),
        (["test_public", "trains", "truth"], set()),
    ],
)
def test_roles_are_found_in_any_case(tmp_path, names, roles):
    """Folders of splits and masks are found under their common names."""
    for name in names:
        (tmp_path / name).mkdir()

    assert set(find_roles(tmp_path)) == roles
    assert is_category(tmp_path) == bool(roles & {"train", "test"})


def test_two_folders_of_one_role_are_named(tmp_path):
    """Two folders for the same are refused with both names."""
    (tmp_path / "val").mkdir()
    (tmp_path / "validation").mkdir()

    with pytest.raises(ValueError, match=r"one folder of val, got .*/val and .*/validation"):
        find_roles(tmp_path)


def test_splits_are_named_as_in_anomalib():
    """The module does not import anomalib, but what it says of a folder is one of its splits."""
    assert {TRAIN, VAL, TEST} == {split.value for split in Split}
