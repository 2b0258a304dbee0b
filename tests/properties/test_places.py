# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from .oracle import Difference, judge
from .plans import Plan, Sample, names_of, read, two_folders, write_plain
from .values import ANYTHING

PLACES = [("train", "good"), ("train", "good"), ("test", "good"), ("test", "defect")]
PLAN = Plan(
    tuple(
        Sample(number, name, split, kind, f"{name}/{split}/{kind}/{number:03}.png")
        for name in ("bolt", "nut")
        for number, (split, kind) in enumerate(PLACES)
    )
)
SAME = ("", ".", "bolt/..", "../plain", "nut/train/../..")
OTHERS = ("bolt", "bolt/train", "..", "bolt/train/good/000.png", "missing", "../odd/link", "../odd/empty")
RIGHT = st.sampled_from(("bolt", "nut"))
NAMES = st.sampled_from(("bolt", "nut", "Bolt", "bolt/", "", "all", "screw", "*"))
categories = st.one_of(
    st.just("all"), RIGHT, st.lists(RIGHT, min_size=1), NAMES, st.lists(NAMES, max_size=3), st.sets(NAMES), ANYTHING
)


forms = st.sampled_from((str, Path, os.path.relpath, lambda place: f"{place}/"))


@given(st.one_of(st.sampled_from(SAME), st.sampled_from(OTHERS)), forms, categories)
def test_places_and_categories_are_found_or_named(place, form, categories):
    """Whatever way the folder and its categories are told, these are read, or the argument or folder is named."""
    with two_folders() as (root, other):
        write_plain(PLAN, root)
        (other / "link").symlink_to("gone")
        (other / "empty").mkdir()
        plain = read(root).keys()

        def compare(items):
            wanted = categories if isinstance(categories, list | tuple | set | frozenset) else [categories]
            wanted = {"bolt", "nut"} if list(wanted) == ["all"] else set(wanted)
            if items.keys() != {key for key in plain if key[1].split("/")[0] in wanted}:
                yield Difference("other items", ("categories", *names_of(root, place)))

        odd = ["categories", "root", os.path.abspath(root / place)]
        odd = [] if place in SAME and repr(categories) == "'all'" else odd
        judge("places", lambda: read(form(root / place), root, categories=categories), compare, odd)


@given(ANYTHING)
def test_a_root_of_any_type_is_refused_by_its_name(place):
    """What is no folder is named, or its argument."""
    judge("places of any type", lambda: read(place), lambda _: (), ("root", repr(place), str(place)))
