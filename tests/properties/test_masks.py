# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from .mask_encodings import mask_files
from .plans import Plan, Sample, judge_plan

PLACES = [("train", "good"), ("train", "good"), ("test", "good"), ("test", "defect"), ("test", "defect")]


@given(mask_files(), st.booleans())
def test_masks_of_any_encoding_mean_what_they_show(file, both):
    """Masks tell the same pixels in every encoding, or are named."""
    suffix, encoding = file
    samples = []
    for number, (split, kind) in enumerate(PLACES):
        path = f"nut/{split}/{kind}/{number}.png"
        masks = {} if kind == "good" else {"masks": (f"nut/ground_truth/{kind}/{number}_mask.png",)}
        if number == len(PLACES) - 1 or (both and masks):
            masks = {"masks": (f"nut/ground_truth/{kind}/{number}_mask{suffix}",), "mask_encoding": encoding}
        samples.append(Sample(number, "nut", split, kind, path, **masks))
    judge_plan("masks", Plan(tuple(samples)))
