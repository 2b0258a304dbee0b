# SPDX-License-Identifier: Apache-2.0
import inspect

from hypothesis import given
from hypothesis import strategies as st

from anomalib_vqflow import VQFlow

from ..tiny import tiny_model
from .oracle import judge
from .values import ANYTHING

NAMES = tuple(inspect.signature(VQFlow).parameters)
LIKELY = st.one_of(
    st.integers(0, 8).map(lambda number: 4 * number),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.sampled_from((True, False, None, 0.5, 1.0, "cosine", "independent", "additive", (64, 64), [0, 1, 2, 3], 2)),
    ANYTHING,
)


@given(st.dictionaries(st.sampled_from(NAMES), LIKELY, min_size=1, max_size=3))
def test_a_model_is_built_or_an_argument_is_named(given):
    """Whatever the arguments are, a model is built of them, or an error names one of them."""
    judge("constructor", lambda: tiny_model(**given), lambda _: (), given)
