# SPDX-License-Identifier: Apache-2.0
"""Models and data that a command line may name, and what the command says to wrong ones."""

import pytest
import torch
import yaml
from anomalib.models import Padim

from anomalib_vqflow.report.__main__ import main
from anomalib_vqflow.sources import SourceError, load_model, set_up
from tests.data.folders import make_category
from tests.tiny import tiny_data


def block(root):
    return {"class_path": "MultiCategory", "init_args": {"root": str(root), "num_workers": 0, "eval_batch_size": 4}}


@pytest.mark.parametrize("option", ["--data", "--config"])
def test_files(run, tmp_path, option):
    """A file of a datamodule, with others in it, and a configuration of a training work, too."""
    content = block(run[1])
    if option == "--data":
        content = {"class_path": "MultiCategory", "init_args": {"datamodules": [content], "num_workers": 0}}
    else:
        content = {"model": {"class_path": "VQFlow"}, "data": content, "trainer": {"max_epochs": 1}}
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(content))
    main([str(run[0]), option, str(path), "--output", str(tmp_path / "report")])
    assert (tmp_path / "report" / "index.html").is_file()


def test_no_checkpoint(run, tmp_path, refusal):
    """A file that is no checkpoint is named."""
    path = tmp_path / "model.ckpt"
    path.write_text("nothing of the kind")
    message = refusal(path, "--root", run[1])
    assert str(path) in message
    assert "no checkpoint" in message


def test_checkpoint_of_another_model(run, tmp_path, refusal):
    """A checkpoint of another of anomalib's models is refused as such."""
    path = tmp_path / "padim.ckpt"
    model = Padim(backbone="resnet18", pre_trained=False)
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    assert "not a checkpoint of VQFlow" in refusal(path, "--root", run[1])


def test_checkpoint_of_another_version(run, tmp_path, capsys):
    """A checkpoint that lacks weights is refused with a reason."""
    path = tmp_path / "model.ckpt"
    checkpoint = torch.load(run[0], weights_only=True)
    del checkpoint["state_dict"]["model.concept.codebook.codes"]
    torch.save(checkpoint, path)
    with pytest.raises(SystemExit) as error:
        main([str(path), "--root", str(run[1])])
    assert error.value.code == 2
    assert "does not fit this version" in capsys.readouterr().err


def test_wrong_folder(run, tmp_path, refusal):
    """A folder that is not there, or has no categories, is named; unknown categories come with the known ones."""
    assert "nowhere" in refusal(run[0], "--root", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal(run[0], "--root", tmp_path / "empty")
    message = refusal(run[0], "--root", run[1], "--categories", "screw")
    assert "screw" in message
    assert "bolt" in message


def test_broken_image(run, tmp_path, refusal):
    """An unreadable image is named."""
    make_category(tmp_path, "nut")
    (tmp_path / "nut" / "test" / "good" / "000.png").write_bytes(b"no image")
    assert "000.png" in refusal(run[0], "--root", tmp_path)


def test_images_are_read_in_the_range_of_the_training(run, monkeypatch):
    """Images of 16 bits are as bright as they were to the model."""
    model, datamodule = load_model(run[0]), tiny_data(run[1])
    monkeypatch.setattr(model, "bit_depth", 14)
    set_up(datamodule, model)
    assert datamodule.train_data.bit_depth == datamodule.test_data.bit_depth == 14
    monkeypatch.setattr(datamodule, "bit_depth", 16)
    with pytest.raises(SourceError, match="16 bits, but those of the model's training used 14"):
        set_up(datamodule, model)


def test_no_test_images(run, tmp_path, refusal):
    """Data without test images are refused."""
    make_category(tmp_path, "nut", good=0, defect=0)
    data = tmp_path / "data.yaml"
    data.write_text(
        yaml.safe_dump(
            {
                "class_path": "MultiCategory",
                "init_args": {"root": str(tmp_path), "num_workers": 0, "test_split_mode": "none"},
            }
        )
    )
    assert "test" in refusal(run[0], "--data", data)


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--data", None, "cannot read"),
        ("--data", "a: [", "cannot read"),
        ("--data", "just words", "class_path"),
        ("--data", "data: {class_path: MultiCategory}", "class_path"),
        ("--config", "class_path: MultiCategory", "a block `data`"),
        ("--data", "class_path: NoSuchData", "no datamodule of the name NoSuchData"),
        ("--data", "{class_path: MultiCategory, init_args: {rood: products}}", "'rood' is not accepted"),
        ("--data", "{class_path: MultiCategory, init_args: {root: nowhere}}", "nowhere; check `root`"),
        ("--data", "{class_path: MultiCategory, init_args: {root: products, num_workers: many}}", "num_workers"),
    ],
)
def test_wrong_files(run, tmp_path, capsys, option, content, words):
    """Missing, broken and unfit files are named, with what is wrong in them."""
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as error:
        main([str(run[0]), option, str(path)])
    message = capsys.readouterr().err
    assert error.value.code == 2
    assert words in message
    assert str(path) in message
    assert "Given value" not in message
