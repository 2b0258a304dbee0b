# SPDX-License-Identifier: Apache-2.0
"""``vqflow-config`` finds every configuration, from a checkout and from a wheel."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from anomalib_vqflow import configuration

from .test_registration import environment, everything_else, run_python, wheel  # noqa: F401  (fixtures)

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FILES = {
    path.relative_to(CONFIGS).with_suffix("").as_posix(): path
    for pattern in ("data/*.yaml", "*.yaml")
    for path in sorted(CONFIGS.glob(pattern))
}


def test_without_a_name_all_are_listed_with_their_purpose(capsys):
    configuration.main([])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == sorted(FILES)
    for name, text in lines:
        assert FILES[name].read_text().startswith(f"# {text}\n")


@pytest.mark.parametrize("name", FILES)
def test_the_purpose_is_one_sentence_of_a_line(name):
    text = configuration.purpose(FILES[name])
    assert text[0].isupper()
    assert text.endswith(".")
    assert len(name) + len(text) < 120


@pytest.mark.parametrize("name", FILES)
def test_a_name_prints_the_path_and_nothing_else(name, capsys):
    configuration.main([name])
    printed = capsys.readouterr()
    assert printed.out == f"{FILES[name]}\n"
    assert not printed.err


def test_an_unknown_name_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        configuration.main(["light"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out  # the shell would put it into the command
    assert "'light'" in printed.err
    for name in FILES:
        assert name in printed.err


RUN = """# anomalib==2.7.0
seed_everything: true
trainer:
  max_epochs: 3
  callbacks:
  - class_path: anomalib_vqflow.FeatureCache
optimizer: null
model:
  class_path: anomalib_vqflow.VQFlow
data:
  class_path: anomalib_vqflow.MultiCategory
ckpt_path: null
"""


@pytest.mark.parametrize("name", ["", "config.yaml"])
def test_a_run_gets_a_configuration_that_all_commands_take(name, tmp_path, capsys):
    """What only some commands know is left out, and nothing else is."""
    (tmp_path / "config.yaml").write_text(RUN)
    configuration.main([str(tmp_path / name)])
    path = Path(capsys.readouterr().out.strip())
    whole, kept = yaml.safe_load(RUN), yaml.safe_load(path.read_text())
    assert path == tmp_path / "vqflow.yaml"
    assert kept == {key: whole[key] for key in ("trainer", "model", "data")}


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        configuration.main([str(tmp_path)])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert not printed.out
    assert "no run of `anomalib train`" in printed.err


def test_a_broken_installation_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(configuration, "FOLDERS", (tmp_path / "one", tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        configuration.configurations()


def test_the_command_imports_neither_torch_nor_anomalib():
    script = """
        import sys
        from anomalib_vqflow.configuration import main
        main([])
        assert not {"torch", "anomalib", "numpy", "yaml"} & sys.modules.keys()
    """
    done = run_python(script, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "light_cpu" in done.stdout


@pytest.mark.slow
def test_the_command_works_in_a_wheel_and_in_an_editable_install(environment, tmp_path):  # noqa: F811
    """A wheel holds copies of the checkout's files; an editable install takes those of the checkout themselves."""
    is_wheel = (environment.site / "anomalib_vqflow" / "__init__.py").exists()
    folder = environment.site / "anomalib_vqflow" / "configs" if is_wheel else ROOT / "configs"
    command = environment.folder / "bin" / "vqflow-config"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name, file in FILES.items():
        done = subprocess.run([command, name], capture_output=True, text=True, check=True, cwd=tmp_path, env=variables)
        copy = folder / file.relative_to(CONFIGS)
        assert done.stdout == f"{copy}\n"
        assert copy.read_bytes() == file.read_bytes()
