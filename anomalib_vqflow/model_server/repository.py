# SPDX-License-Identifier: Apache-2.0
"""Folders that OpenVINO Model Server serves: versions of models, and a configuration."""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib_vqflow.telemetry import no_telemetry

with no_telemetry():
    import openvino

CONFIGURATION = "config.json"
METADATA = "metadata.json"
MODELS = "model_config_list"
NAMES = re.compile(r"\w[\w.-]*", re.ASCII)
"""Names that stand in an address as they are, and are no hidden folders."""

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in bfloat16 on CPUs that can, which changes scores."""


class RepositoryError(ValueError):
    """A model, a name or a repository is not what it must be; the message says why."""


def add_version(model: Path, repository: Path, name: str) -> Path:
    """Add a model to a repository as the next version of its name, and the name to the configuration.

    Nothing that was there is changed, but for the configuration, to which the name is added. A server that runs sees a
    version when all of its files are there.

    Args:
        model: The ``.xml`` file of an export to OpenVINO.
        repository: Folder of all models; made if it is not there.
        name: What clients call the model.

    Returns:
        Folder of the version.

    Raises:
        RepositoryError: If one of them is not usable.
        OSError: If a file cannot be read or written.
    """
    if not NAMES.fullmatch(name):
        msg = f"The name must be of letters, digits, '_', '.' and '-', such as 'bottle', got {name!r}."
        raise RepositoryError(msg)
    files = files_of(model)
    configuration = with_model(read_configuration(repository / CONFIGURATION), name)
    (repository / name).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=repository) as folder:
        version, written = Path(folder) / "version", Path(folder) / CONFIGURATION
        version.mkdir()
        for path in files:
            shutil.copyfile(path, version / path.name)
        written.write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")
        target = repository / name / str(_next_version(repository / name))
        version.rename(target)
        written.replace(repository / CONFIGURATION)
    return target


def files_of(model: Path) -> list[Path]:
    """Find the files of an exported model, which OpenVINO must be able to read.

    Args:
        model: The ``.xml`` file.

    Returns:
        It, its weights, and its metadata if they are there.

    Raises:
        RepositoryError: If it is no exported model.
    """
    if model.suffix != ".xml" or not model.is_file():
        msg = f"{model} is no .xml file of an export to OpenVINO; give one, such as weights/openvino/model.xml."
        raise RepositoryError(msg)
    if not model.with_suffix(".bin").is_file():
        msg = f"{model.with_suffix('.bin')} is missing, which holds the weights; keep both files in one folder."
        raise RepositoryError(msg)
    try:
        outputs = openvino.Core().read_model(model).outputs
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"OpenVINO cannot read {model} ({reason})."
        raise RepositoryError(msg) from error
    if not any("anomaly_map" in output.get_names() for output in outputs):
        msg = f"{model} has no output anomaly_map; give a model that anomalib has exported."
        raise RepositoryError(msg)
    return [model, model.with_suffix(".bin"), *model.parent.glob(METADATA)]


def read_configuration(path: Path) -> dict[str, Any]:
    """Read the configuration of a repository.

    Args:
        path: The file, which may be missing.

    Returns:
        What it says.

    Raises:
        RepositoryError: If it is no configuration of Model Server.
    """
    if not path.exists():
        return {MODELS: []}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = [entry["config"]["name"] for entry in found[MODELS]]
    except (ValueError, KeyError, TypeError):
        entries = None
    if entries is None:
        msg = (
            f"{path} is no configuration of Model Server, which has a list {MODELS!r}; mend it, or choose a new folder."
        )
        raise RepositoryError(msg)
    return found


def with_model(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    """Add a model to a configuration, unless it is there.

    Args:
        configuration: What :func:`read_configuration` found.
        name: Name of the model and of its folder.

    Returns:
        The configuration with it.

    Raises:
        RepositoryError: If the name stands for another folder.
    """
    for entry in configuration[MODELS]:
        if entry["config"]["name"] == name:
            if Path(str(entry["config"].get("base_path"))).name != name:
                msg = f"{CONFIGURATION} has a model {name!r} in another folder; choose another name."
                raise RepositoryError(msg)
            return configuration
    entry = {"config": {"name": name, "base_path": name, "plugin_config": EXACT}}
    return configuration | {MODELS: [*configuration[MODELS], entry]}


def _next_version(folder: Path) -> int:
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
