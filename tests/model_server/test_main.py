# SPDX-License-Identifier: Apache-2.0
"""``vqflow-repository`` makes folders as OpenVINO Model Server documents them, and changes nothing in them."""

import json
import re
import subprocess
import sys

import numpy as np
import openvino
import pytest

from anomalib_vqflow.export.metadata import METADATA_FILE
from anomalib_vqflow.model_server.__main__ import main
from anomalib_vqflow.model_server.repository import METADATA
from tests.prediction.toys import write_toy


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / METADATA_FILE).write_text("{}")
    return write_toy(tmp_path / "model" / "model.xml")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_configuration(repository):
    """Hold a configuration against what Model Server's JSON schema demands of the entries that we write."""
    configuration = json.loads((repository / "config.json").read_text())
    assert configuration.keys() == {"model_config_list"}
    for entry in configuration["model_config_list"]:
        assert entry.keys() == {"config"}
        config = entry["config"]
        assert config.keys() == {"name", "base_path", "plugin_config"}
        assert all(isinstance(value, str) for value in config["plugin_config"].values())
        base = repository / config["base_path"]  # a relative one is relative to the file
        versions = list(base.iterdir())
        assert versions
        for version in versions:
            assert re.fullmatch("[1-9][0-9]*", version.name)
            assert {path.suffix for path in version.iterdir()} == {".xml", ".bin", ".json"}
    return [entry["config"]["name"] for entry in configuration["model_config_list"]]


def test_versions_count_up_and_nothing_changes(model, tmp_path, capsys):
    """Whatever was there stays as it is; only the configuration grows, by the names of new models."""
    repository, before = tmp_path / "a" / "models", {}
    for number, (name, version) in enumerate([("bolt", 1), ("bolt", 2), ("nut-2.b", 1), ("bolt", 3)]):
        main([str(model), str(repository), "--name", name])
        found = contents(repository)
        assert {path: found[path] for path in before} == before
        assert len(found) == 3 * (number + 1) + 1
        del found["config.json"]
        before = found
        assert str(repository / name / str(version)) in capsys.readouterr().out
    assert check_configuration(repository) == ["bolt", "nut-2.b"]
    assert METADATA == METADATA_FILE


def test_the_copy_predicts(model, tmp_path):
    """OpenVINO reads a version's folder, as the configuration tells the device to, and predicts what the model does."""
    main([str(model), str(tmp_path / "models"), "--name", "bolt"])
    (entry,) = json.loads((tmp_path / "models" / "config.json").read_text())["model_config_list"]
    copy = tmp_path / "models" / entry["config"]["base_path"] / "1" / model.name
    image = np.random.default_rng(0).random((2, 3, 5, 7), dtype=np.float32)
    settings = entry["config"]["plugin_config"]
    expected, found = (openvino.compile_model(path, "CPU", settings)(image) for path in (model, copy))
    for output in ("pred_score", "anomaly_map", "pred_label", "pred_mask"):
        np.testing.assert_array_equal(found[output], expected[output])


def test_what_others_configured_stays(model, tmp_path):
    """Entries and settings of other models, and those of this one, are kept."""
    repository = tmp_path / "models"
    others = [
        {"config": {"name": "bolt", "base_path": "/models/bolt", "nireq": 2}},
        {"config": {"name": "x", "shape": "auto"}},
    ]
    repository.mkdir()
    (repository / "config.json").write_text(json.dumps({"model_config_list": others, "monitoring": {"metrics": {}}}))
    main([str(model), str(repository), "--name", "bolt"])
    main([str(model), str(repository), "--name", "nut"])
    configuration = json.loads((repository / "config.json").read_text())
    assert configuration["model_config_list"][:2] == others
    assert [entry["config"]["name"] for entry in configuration["model_config_list"]] == ["bolt", "x", "nut"]
    assert configuration["monitoring"] == {"metrics": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.with_suffix(".bin").unlink(), "model.bin is missing"),
        (lambda model: model.write_text("<net/>"), "OpenVINO cannot read .*model.xml"),
        (lambda model: model.unlink(), "model.xml is no .xml file of an export to OpenVINO"),
        (lambda model: write_toy(model, drop=["anomaly_map"]), "has no output anomaly_map"),
    ],
)
def test_what_is_no_model_is_refused(model, tmp_path, capsys, change, message):
    """In a sentence, before anything is written."""
    change(model)
    check_refusal([str(model), str(tmp_path / "models"), "--name", "bolt"], message, capsys)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "sp ace", "ä"])
def test_names_that_are_none_are_refused(model, tmp_path, capsys, name):
    """They would be other folders, or other addresses."""
    check_refusal([str(model), str(tmp_path / "models"), "--name", name], "The name must be of letters", capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is no configuration of Model Server"),
        ("[]", "config.json is no configuration of Model Server"),
        ('{"model_config_list": [{"name": "bolt"}]}', "config.json is no configuration of Model Server"),
        ('{"model_config_list": [{"config": {"name": "bolt", "base_path": "/nut"}}]}', "in another folder"),
    ],
)
def test_other_configurations_are_refused(model, tmp_path, capsys, text, message):
    """And stay as they are."""
    (tmp_path / "config.json").write_text(text)
    before = contents(tmp_path)
    check_refusal([str(model), str(tmp_path), "--name", "bolt"], message, capsys)
    assert contents(tmp_path) == before


def test_what_cannot_be_written_is_named(model, tmp_path, capsys):
    """A file in the place of the folder."""
    (tmp_path / "models").write_text("")
    check_refusal([str(model), str(tmp_path / "models"), "--name", "bolt"], "Cannot write .*models", capsys)


def check_refusal(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_torch_is_not_needed(model, tmp_path):
    """As for prediction, an installation without dependencies and with OpenVINO will do."""
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'anomalib', 'lightning']))\n"
    code += (
        f"from anomalib_vqflow.model_server.__main__ import main; main([{str(model)!r}, 'models', '--name', 'bolt'])"
    )
    subprocess.run([sys.executable, "-c", code, "models", "--name", "bolt"], cwd=tmp_path, check=True)
    assert check_configuration(tmp_path / "models") == ["bolt"]
