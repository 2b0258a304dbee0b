# SPDX-License-Identifier: Apache-2.0
"""Tests of the arctangent."""

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows.arctan import arctan, arctan_by_roots

NUMBERS = torch.cat((torch.linspace(-20, 20, 100_001), 10 ** torch.linspace(-30, 38, 1_001)))


def test_by_roots_it_is_the_arctangent():
    """Of small and large numbers of both signs, and of infinite ones; NaN stays NaN."""
    numbers = torch.cat((NUMBERS, -NUMBERS, torch.tensor([0.0, torch.inf, -torch.inf])))
    assert_close(arctan_by_roots(numbers), torch.atan(numbers), atol=1e-6, rtol=0)
    assert arctan_by_roots(torch.tensor(torch.nan)).isnan()


def test_it_never_falls():
    """But for rounding."""
    ordered = NUMBERS.sort().values
    assert arctan_by_roots(ordered).diff().min() > -5e-7


@pytest.mark.parametrize("exporting", [False, True])
def test_only_exports_take_roots(monkeypatch, exporting):
    """Everything else takes torch's."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    expected = arctan_by_roots(NUMBERS) if exporting else torch.atan(NUMBERS)
    assert torch.equal(arctan(NUMBERS), expected)
