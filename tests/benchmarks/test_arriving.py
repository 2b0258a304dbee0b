# SPDX-License-Identifier: Apache-2.0
"""benchmarks/arriving.py adds groups of products to a model, and replays them."""

from tests.data.folders import make_category, make_image
from tests.scripts import load_script, read_table
from tests.tiny import tiny_data, tiny_engine, tiny_model

NOT_KNOWN = "\N{EN DASH}"
arriving = load_script("benchmarks/arriving.py")


def test_every_way_has_a_row(tmp_path, capsys):
    """With the accuracy of each group; where a group is not known yet, there is none."""
    root = tmp_path / "products"
    for name in ("bolt", "nut"):
        make_category(root, name, train=8)
    for index in range(8):
        make_image(root / "cap" / "train" / "good" / f"{index:03}.png", 200)
    for kind, value in (("good", 200), ("hole", 90)):
        for index in range(3):
            make_image(root / "cap" / "test" / kind / f"{index:03}.png", value)
    engine = tiny_engine(tmp_path / "run")
    engine.fit(tiny_model(), datamodule=tiny_data(root, categories=["bolt", "nut"]))
    base = engine.trainer.checkpoint_callback.best_model_path
    groups = [f"{root}/bolt,{root}/nut", f"{root}/cap"]
    arriving.main(["--base", base, "--replay-epochs", "1", "--groups", *groups])
    rows = read_table(capsys.readouterr().out)
    assert list(rows) == ["trained on group 1", "the others added without training", "and replayed"]
    assert rows["trained on group 1"][1].startswith(NOT_KNOWN)
    for row in rows.values():
        assert all(0 <= float(value) <= 1 for cell in row[:-1] for value in cell.split(", ") if value != NOT_KNOWN)
