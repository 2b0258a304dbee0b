# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-report``: its arguments, and what it says to wrong ones."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from anomalib_vqflow.report.__main__ import default_folder, main


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


def test_default_folder(tmp_path):
    """Without --output, the report goes to the folder of the run."""
    assert default_folder(tmp_path / "v0" / "weights" / "lightning" / "model.ckpt") == tmp_path / "v0" / "report"
    assert default_folder(tmp_path / "model.ckpt") == tmp_path / "report"


def test_missing_checkpoint(run, tmp_path, refusal):
    """A checkpoint that is not there is named."""
    assert "no checkpoint" in refusal(tmp_path / "model.ckpt", "--root", run[1])


def test_wrong_command_lines(run, tmp_path, refusal):
    """Data must be given, once; the share of training images must be positive; the output must be a folder."""
    for arguments in ([], ["--root", "a", "--data", "b"]):
        with pytest.raises(SystemExit) as error:
            main([str(run[0]), *arguments])
        assert error.value.code == 2
    assert "at least 1" in refusal(run[0], "--root", run[1], "--max-train-images", 0)
    file = tmp_path / "file"
    file.touch()
    assert "file" in refusal(run[0], "--root", run[1], "--output", file)


def test_help_and_package_are_quick():
    """Neither the package nor the command's help imports matplotlib or torch."""
    script = (
        "import sys, anomalib_vqflow, anomalib_vqflow.report.__main__ as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'matplotlib', 'torch', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    environment = os.environ | {"COLUMNS": "80"}
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert "--config" in output.stdout


def test_runs_as_module(tmp_path):
    """``python -m anomalib_vqflow.report`` is the command."""
    missing = str(tmp_path / "model.ckpt")
    command = [sys.executable, "-m", "anomalib_vqflow.report", missing, "--root", str(tmp_path)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("vqflow-report: there is no checkpoint")


def test_is_a_console_script():
    """The installed package has the command."""
    (script,) = entry_points(group="console_scripts", name="vqflow-report")
    assert script.load() is main
