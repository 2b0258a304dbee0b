# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow.naming import first_names


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ""), (1, "0"), (3, "0; 1; 2"), (4, "0; 1; 2 and 1 more"), (1000, "0; 1; 2 and 997 more")],
)
def test_names_up_to_the_limit_and_counts_the_others(count, expected):
    """Nothing is counted that is listed, and nothing is left out uncounted."""
    assert first_names([str(i) for i in range(count)], limit=3, separator="; ") == expected
