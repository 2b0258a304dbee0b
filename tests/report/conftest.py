# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow.pictures import figures


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Draw with fewer pixels, which is several times faster."""
    monkeypatch.setattr(figures, "DPI", 60)
