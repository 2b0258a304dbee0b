# SPDX-License-Identifier: Apache-2.0
"""The command vqflow-products."""

import pytest

from anomalib_vqflow.products.__main__ import main
from tests.refusals import refuser


@pytest.fixture
def run(capsys):
    """What the command prints."""

    def run_command(*arguments):
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run_command


@pytest.fixture
def refusal(capsys):
    """What the command says to unusable arguments."""
    return refuser(main, "vqflow-products", capsys)


def test_add_list_compare_and_remove(run, checkpoint, root, tmp_path):
    """Each is told; what is written can be read again."""
    added, removed = tmp_path / "added.ckpt", tmp_path / "removed.ckpt"
    told = run("add", checkpoint, "--root", root, "--categories", "cable", "fabric", "--output", added)
    assert "fabric: concept 4, found by 100.0% of 16 training images; of images held out in turn" in told
    assert "cable: 0 of 16 training images now pass for a new product" in told
    assert "fabric: concepts 4, added" in run("list", added)
    assert "fabric: removed; 100.0% of its training images lose their concept" in run(
        "remove", added, "fabric", "--output", removed
    )
    compared = run("compare", checkpoint, added, "--root", root, "--categories", "cable", "fabric")
    unchanged = "of 36 images, 0 are anomalous now, and 0 normal; scores change by +0.000 on average, 0.000 at most"
    assert compared == f"cable: {unchanged}\n"
    names = [line.partition(":")[0] for line in run("list", removed).splitlines()]
    assert names == ["cable", "gear"]
    assert run("list", checkpoint) == run("list", removed)


def test_unusable_arguments(refusal, checkpoint, root, tmp_path):
    """Each in one sentence."""
    assert "there is no checkpoint" in refusal("list", tmp_path / "missing.ckpt")
    (tmp_path / "there.ckpt").write_text("something")
    assert "exists already" in refusal("remove", checkpoint, "cable", "--output", tmp_path / "there.ckpt")
    assert "is no checkpoint" in refusal("list", tmp_path / "there.ckpt")
    output = tmp_path / "new.ckpt"
    assert "does not know cup" in refusal("remove", checkpoint, "cup", "--output", output)
    assert "knows all" in refusal("add", checkpoint, "--root", root, "--categories", "gear", "--output", output)
    assert "missing" in refusal("add", checkpoint, "--root", tmp_path / "missing", "--output", output)
    assert not output.exists()
    assert "there is no checkpoint" in refusal("compare", checkpoint, tmp_path / "missing.ckpt", "--root", root)
    assert "knows none of" in refusal("compare", checkpoint, checkpoint, "--root", root, "--categories", "fabric")
