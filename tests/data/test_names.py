# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from anomalib.data import Folder, MVTecAD, Visa

from anomalib_vqflow.data.category_folder import CategoryFolder
from anomalib_vqflow.data.names import differing_parts, name_datamodules


def test_equal_names_get_their_dataset_in_front(tmp_path):
    """Categories of equal name are told apart by their dataset."""
    datamodules = [MVTecAD(tmp_path, "screw"), Folder("screw", "good", tmp_path), Visa(tmp_path, "pcb1")]

    assert list(name_datamodules(datamodules)) == ["MVTecAD_screw", "screw_screw", "pcb1"]


def test_equal_datasets_get_what_differs_of_their_folders(tmp_path):
    """Categories of equal name and dataset are told apart by their folders; others keep their name."""
    datamodules = [
        CategoryFolder(tmp_path / "line1/products/nut"),
        CategoryFolder(tmp_path / "line2/products/nut"),
        CategoryFolder(tmp_path / "line2/products/cap"),
        MVTecAD(tmp_path / "old", "screw"),
        MVTecAD(tmp_path / "new", "screw"),
        Folder("lid", "good", tmp_path / "x"),
        Folder("lid", "good", tmp_path / "y"),
    ]

    names = list(name_datamodules(datamodules))

    assert names == ["line1_nut", "line2_nut", "cap", "old_screw", "new_screw", "x_lid", "y_lid"]


def test_same_category_twice_raises(tmp_path):
    """The same category of the same dataset and folder is refused, with the argument that would help."""
    with pytest.raises(ValueError, match=r"\['MVTecAD_screw'\] more than once.*prefix="):
        name_datamodules([MVTecAD(tmp_path, "screw"), MVTecAD(tmp_path, "screw")])


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (["/a/line1", "/a/line2"], ["line1", "line2"]),
        (["/home/u/line1/x", "/mnt/disk/line2/x"], ["line1", "line2"]),
        (["/a/b/line1/x", "/a/line2/x"], ["line1", "line2"]),
        (["/a/x", "/a/x/y"], ["x", "y"]),
        (["/a/l1/d1", "/a/l1/d2", "/a/l2/d1"], ["l1_d1", "l1_d2", "l2_d1"]),
        (["/a/l1/x/d1", "/a/l1/x/d2", "/a/l2/x/d1"], ["l1_d1", "l1_d2", "l2_d1"]),
        (["/a", "/a"], ["", ""]),
        (["/a", None], ["", ""]),
    ],
)
def test_differing_parts(folders, parts):
    """Folders are told apart by their innermost parts, wherever they all lie."""
    assert differing_parts([folder and Path(folder) for folder in folders]) == parts
