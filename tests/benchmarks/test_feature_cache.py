# SPDX-License-Identifier: Apache-2.0
"""benchmarks/feature_cache.py times epochs with a cache and without."""

import pytest

from tests.scripts import load_script, read_table

feature_cache = load_script("benchmarks/feature_cache.py")


@pytest.mark.slow
def test_each_way_has_a_line(config, tmp_path, capsys):
    """Times and rates of all four ways, and the size of the files."""
    arguments = ["--config", str(config), "--images", "2", "--rounds", "1", "--epochs", "1"]
    feature_cache.main([str(tmp_path / "products"), *arguments])
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.index("4 images") :])
    assert list(rows) == ["without", "in memory", "on disk", "on disk, again"]
    for _start, *times in rows.values():  # the start may be too short to be seen
        wall, rate, processor, processor_rate = map(float, times)
        for seconds, images_per_second in ((wall, rate), (processor, processor_rate)):
            rounding = 0.006 * images_per_second + 0.06 * seconds  # as printed, with two digits and one
            assert seconds * images_per_second == pytest.approx(4, abs=rounding)


def test_the_first_images_are_linked(tmp_path):
    """As many as asked for of each category, in order, and a test image."""
    for name in ("b.png", "a.png", "c.png"):
        for part in ("train", "test"):
            path = tmp_path / "all" / "nut" / part / "good" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    feature_cache.link_first_images(tmp_path / "all", tmp_path / "some", 2)
    linked = sorted(str(path.relative_to(tmp_path / "some")) for path in (tmp_path / "some").rglob("*.png"))
    assert linked == ["nut/test/good/a.png", "nut/train/good/a.png", "nut/train/good/b.png"]
