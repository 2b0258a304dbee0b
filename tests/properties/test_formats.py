# SPDX-License-Identifier: Apache-2.0
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from .formats import broken_files, deep_files, pillow_files
from .plans import Plan, Sample, judge_plan

PLACES = [("train", "good"), ("train", "good"), ("test", "good"), ("test", "defect")]


def plan(suffix, encoding, numbers):
    """A plain category in which some images have an encoding; one that cannot be written is none."""
    samples = []
    for number, (split, kind) in enumerate(PLACES):
        path = f"nut/{split}/{kind}/{number}"
        sample = Sample(number, "nut", split, kind, f"{path}.png")
        if number in numbers:
            sample = Sample(number, "nut", split, kind, f"{path}{suffix}", encoding=encoding)
            try:
                assume(encoding.encode(sample.pixels()) or "%" in encoding.name)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SystemError):
                reject()
        samples.append(sample)
    return Plan(tuple(samples))


numbers = st.sets(st.integers(0, len(PLACES) - 1), min_size=1)


@given(pillow_files(), numbers)
def test_files_of_any_format_show_what_they_show(file, numbers):
    """Images are read upright, in color, and by their first frame, or refused by their name."""
    judge_plan("formats", plan(*file, numbers))


@given(deep_files(), numbers, st.booleans())
def test_deep_files_have_their_brightness(file, numbers, known):
    """Images of more than 8 bits are as bright as their 8-bit equivalent, or refused by their name."""
    suffix, bits, encoding = file
    judge_plan("formats, deep", plan(suffix, encoding, numbers), bit_depth=bits if known else None)


@given(broken_files(), numbers)
def test_broken_files_are_named(file, numbers):
    """What is cut off or no image is refused by its name, unless it shows everything."""
    judge_plan("formats, broken", plan(*file, numbers))
