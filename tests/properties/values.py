# SPDX-License-Identifier: Apache-2.0
"""Strategies for values of any type, such as someone may give for an argument."""

import decimal
import fractions
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

ABSURD = (10**13, 2**63, 10**30, -(10**13))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from(ABSURD),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=5),
    st.binary(max_size=3),
)
OBJECTS = st.sampled_from(
    (
        *(np.float32(0.5), np.int64(2), np.bool_(1), np.array([1, 2]), np.array(2), np.float64("nan")),
        *(torch.tensor(2), torch.tensor([0.5]), torch.nn.ReLU(), torch.nn.ReLU, object(), object, len, Ellipsis),
        *(decimal.Decimal("0.5"), fractions.Fraction(1, 2), complex(1, 0), range(3), Path("x"), Path(".")),
    )
)
ANYTHING = st.one_of(
    SCALARS,
    OBJECTS,
    st.lists(SCALARS, max_size=3),
    st.lists(SCALARS, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
    st.frozensets(st.integers(0, 3), max_size=3),
)
