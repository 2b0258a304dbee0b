# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-report``: its forms of data, and what it says to wrong ones."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
import yaml
from anomalib.models import Padim

from anomalib_vqflow.pictures.command import default_folder, main
from tests.data.folders import make_category
from tests.tiny import tiny_data, tiny_engine, tiny_model, tiny_root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained model's checkpoint, and the folder of its products."""
    folder = tmp_path_factory.mktemp("run")
    root, engine = tiny_root(folder / "products"), tiny_engine(folder)
    engine.fit(tiny_model(), datamodule=tiny_data(root))
    return engine.trainer.checkpoint_callback.best_model_path, root


def refusal(capsys, *arguments):
    """Return what the command says; it ends with status 2, in one line, without a traceback."""
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert error.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("vqflow-report: ")
    return message


def block(root):
    return {"class_path": "MultiCategory", "init_args": {"root": str(root), "num_workers": 0, "eval_batch_size": 4}}


def test_folder(run, tmp_path, capsys):
    """With --root, the report is written and its place is said."""
    main([str(run[0]), "--root", str(run[1]), "--output", str(tmp_path)])
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    assert "nut" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "confusion_test.png").stat().st_size


def test_chosen_categories(run, tmp_path):
    """With --categories, only these are part of the report."""
    main([str(run[0]), "--root", str(run[1]), "--categories", "bolt", "--output", str(tmp_path)])
    assert "2 normal, 2 anomalous" in (tmp_path / "index.html").read_text()


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


def test_default_folder(tmp_path):
    """Without --output, the report goes to the folder of the run."""
    assert default_folder(tmp_path / "v0" / "weights" / "lightning" / "model.ckpt") == tmp_path / "v0" / "report"
    assert default_folder(tmp_path / "model.ckpt") == tmp_path / "report"


def test_missing_checkpoint(run, tmp_path, capsys):
    """A checkpoint that is not there is named."""
    assert "no checkpoint" in refusal(capsys, tmp_path / "model.ckpt", "--root", run[1])


def test_no_checkpoint(run, tmp_path, capsys):
    """A file that is no checkpoint is named."""
    path = tmp_path / "model.ckpt"
    path.write_text("nothing of the kind")
    message = refusal(capsys, path, "--root", run[1])
    assert str(path) in message
    assert "no checkpoint" in message


def test_checkpoint_of_another_model(run, tmp_path, capsys):
    """A checkpoint of another of anomalib's models is refused as such."""
    path = tmp_path / "padim.ckpt"
    model = Padim(backbone="resnet18", pre_trained=False)
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    assert "not a checkpoint of VQFlow" in refusal(capsys, path, "--root", run[1])


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


def test_wrong_folder(run, tmp_path, capsys):
    """A folder that is not there, or has no categories, is named; unknown categories come with the known ones."""
    assert "nowhere" in refusal(capsys, run[0], "--root", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal(capsys, run[0], "--root", tmp_path / "empty")
    message = refusal(capsys, run[0], "--root", run[1], "--categories", "screw")
    assert "screw" in message
    assert "bolt" in message


def test_broken_image(run, tmp_path, capsys):
    """An unreadable image is named."""
    make_category(tmp_path, "nut")
    (tmp_path / "nut" / "test" / "good" / "000.png").write_bytes(b"no image")
    assert "000.png" in refusal(capsys, run[0], "--root", tmp_path)


def test_no_test_images(run, tmp_path, capsys):
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
    assert "test" in refusal(capsys, run[0], "--data", data)


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


def test_wrong_command_lines(run, tmp_path, capsys):
    """Data must be given, once; the share of training images must be positive; the output must be a folder."""
    for arguments in ([], ["--root", "a", "--data", "b"]):
        with pytest.raises(SystemExit) as error:
            main([str(run[0]), *arguments])
        assert error.value.code == 2
    assert "at least 1" in refusal(capsys, run[0], "--root", run[1], "--max-train-images", 0)
    file = tmp_path / "file"
    file.touch()
    assert "file" in refusal(capsys, run[0], "--root", run[1], "--output", file)


def test_help_and_package_are_quick():
    """Neither the package nor the command's help imports matplotlib or torch."""
    script = (
        "import sys, anomalib_vqflow, anomalib_vqflow.pictures.command as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'matplotlib', 'torch', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    environment = os.environ | {"COLUMNS": "80"}
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert "--config" in output.stdout


def test_runs_as_module(tmp_path):
    """``python -m anomalib_vqflow.pictures`` is the command."""
    missing = str(tmp_path / "model.ckpt")
    command = [sys.executable, "-m", "anomalib_vqflow.pictures", missing, "--root", str(tmp_path)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("vqflow-report: there is no checkpoint")


def test_is_a_console_script():
    """The installed package has the command."""
    (script,) = entry_points(group="console_scripts", name="vqflow-report")
    assert script.load() is main
