# SPDX-License-Identifier: Apache-2.0
from hypothesis import given

from .layouts import any_layout, harmless
from .plans import judge_plan


@given(harmless())
def test_layouts_that_mean_one_thing_are_read(plan):
    """Folders of other names, deeper ones, files of any format and name: the items are those of the plain layout."""
    judge_plan("layouts, harmless", plan)


@given(any_layout())
def test_layouts_are_read_or_what_is_odd_is_named(plan):
    """What is no part of the plain layout is refused or named, and never changes the items in silence."""
    judge_plan("layouts, odd", plan)
