# SPDX-License-Identifier: Apache-2.0
from enum import Enum
from functools import cache

from anomalib.data.utils import TestSplitMode as TestMode
from anomalib.data.utils import ValSplitMode as ValMode
from hypothesis import given
from hypothesis import strategies as st

from anomalib_vqflow import MultiCategory

from .oracle import Difference, judge
from .plans import SPLITS, Plan, Sample, two_folders, write_odd
from .values import ANYTHING

SIDE = 36  # smaller ones are too small, by chance, for anomalib's synthetic anomalies
NUMBERS = {("train", "good"): 6, ("test", "good"): 3, ("test", "defect"): 4, ("val", "good"): 2, ("val", "defect"): 2}


VALID = {
    "test_split_mode": st.sampled_from([*TestMode, *(mode.value for mode in TestMode)]),
    "test_split_ratio": st.floats(0.1, 0.9),
    "val_split_mode": st.sampled_from([*ValMode, *(mode.value for mode in ValMode)]),
    "val_split_ratio": st.floats(0.1, 0.9),
    "seed": st.integers(-3, 2**32),
}
ANY_MODE = st.one_of(st.sampled_from(("", "FROM_DIR", "x")), ANYTHING)
ANY_RATIO = st.one_of(st.floats(0, 1), st.sampled_from((0, 1, "0.5", 5e-324, 1 - 2**-53)), ANYTHING)
ANY = {
    "test_split_mode": ANY_MODE,
    "test_split_ratio": ANY_RATIO,
    "val_split_mode": ANY_MODE,
    "val_split_ratio": ANY_RATIO,
    "seed": st.one_of(st.integers(-(2**65), 2**65), ANYTHING),
}


@st.composite
def arguments(draw):
    """Draw arguments, of which one may be anything."""
    given = draw(st.fixed_dictionaries({}, optional=VALID))
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(ANY)))
        given[name] = draw(ANY[name])
    return given


@cache
def plan(good, val, masks):
    """A plain category, perhaps without normal test images, validation images or masks."""
    counts = {place: num for place, num in NUMBERS.items() if (good or place != ("test", "good"))}
    places = [place for place, num in counts.items() for _ in range(num) if val or place[0] != "val"]
    samples = []
    for number, (split, kind) in enumerate(places):
        mask = (f"nut/ground_truth/{kind}/{number}_mask.png",) if masks and kind != "good" else ()
        samples.append(Sample(number, "nut", split, kind, f"nut/{split}/{kind}/{number}.png", mask, side=SIDE))
    return Plan(tuple(samples))


def subsets(root, given):
    """Set up a datamodule, and read the labels of its images by their paths."""
    datamodule = MultiCategory(root, num_workers=0, **given)
    datamodule.setup()
    found = {}
    for split in SPLITS:
        samples = data.samples if (data := getattr(datamodule, f"{split}_data", None)) is not None else None
        rows = [] if samples is None else zip(samples.image_path, samples.label_index, strict=True)
        found[split] = {path.removeprefix(f"{root}/"): int(label) for path, label in rows}
    return found


def faults(plan, given, found):
    """Find what is not as the arguments say, by rules that are simpler than the splits."""
    labels = {sample.path: int(not sample.normal) for sample in plan.samples}
    for split in SPLITS:
        for path, label in found[split].items():
            if labels.get(path, label) != label:
                yield f"{path} has another label in {split}"
    start = {split: {sample.path for sample in plan.samples if sample.split == split} for split in SPLITS}
    has_good = any(sample.split == "test" and sample.normal for sample in plan.samples)
    test_mode, val_mode = _value(given, "test_split_mode", "from_dir"), _value(given, "val_split_mode", None)
    val_mode = val_mode or ("from_dir" if start["val"] else "same_as_test")
    train, val, test = (set(found[split]) for split in SPLITS)
    drawn = start["train"] - train
    own_test = test_mode != "synthetic"
    whole = (
        {"from_train": start["train"], "from_test": val | test}.get(val_mode, set()) if has_good and own_test else set()
    )
    ratio = 0.5 if given.get("val_split_ratio") is None else float(given["val_split_ratio"])
    rules = {
        "other training images": train and train <= start["train"] and not any(found["train"].values()),
        "an image in two subsets": not train & (val | test) and (val_mode == "same_as_test" or not val & test),
        "training images are lost": not drawn
        or val_mode in {"from_train", "synthetic"}
        or (not has_good and test_mode != "none"),
        "test images are lost": not own_test
        or start["test"] <= test
        or (val_mode == "from_test" and start["test"] <= test | val),
        "images in no subset": not own_test or val_mode == "synthetic" or drawn <= val | test,
        "another share": not whole or abs(len(val) - len(whole) * ratio) <= 1 + (val_mode == "from_test"),
        "another share of test images": has_good
        or test_mode != "from_dir"
        or val_mode in {"from_train", "synthetic"}
        or abs(len(drawn) - len(start["train"]) * float(given.get("test_split_ratio") or 0.2)) <= 1,
        "no validation images, or some": (val_mode == "none") == (not val),
        "other validation images": val == {"from_dir": start["val"], "same_as_test": test}.get(val_mode, val),
    }
    yield from (rule for rule, holds in rules.items() if not holds)


def _value(given, name, default):
    value = given.get(name)
    return default if value is None else value.value if isinstance(value, Enum) else value


TOLD = tuple(name.format(part) for part in ("test", "val") for name in ("{}_split_mode", "{}_split_ratio"))
places = st.tuples(st.booleans(), st.booleans(), st.booleans())


@given(places, arguments())
def test_split_arguments_do_what_they_say_or_are_named(place, given):
    """Whatever the arguments are, images are shared out as they say, alike for equal seeds, or one is refused."""
    with two_folders() as (_, root):
        write_odd(plan(*place), root)

        def compare(found):
            yield from (Difference(what, TOLD) for what in faults(plan(*place), given, found))
            if given.get("seed") is not None and not _alike(root, given, found):
                yield Difference("another split by the same seed", ("seed",))

        judge("split arguments", lambda: subsets(root, given), compare, given)


def _alike(root, given, found):
    """Compare with another split; which images anomalib makes anomalies of, no seed tells."""
    again = subsets(root, given)
    modes = {_value(given, name, None) for name in ("test_split_mode", "val_split_mode")}
    return all(found[split].keys() == again[split].keys() for split in (("train",) if "synthetic" in modes else SPLITS))
