# SPDX-License-Identifier: Apache-2.0
"""Nothing goes over a network, and nothing is written elsewhere than asked for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_vqflow.telemetry import no_telemetry

REPOSITORY = Path(__file__).resolve().parents[1]
CI = ("CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI", "NNCF_DEV")  # where OpenVINO and NNCF tell nothing
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")

WATCH = f"""
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):  # also in child processes that are forked
    if event in {NETWORK}:
        os.write(log, f"network {{event}}\\n".encode())
        raise OSError("no network")
    writes = event == "open" and arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event == "os.mkdir") and isinstance(arguments[0], str):
        os.write(log, f"write {{os.path.abspath(arguments[0])}}\\n".encode())
sys.addaudithook(watch)
"""

OPENVINO = "import openvino"
COMMANDS = """
import anomalib_vqflow.prediction.exported, anomalib_vqflow.model_server.repository
assert "openvino" in sys.modules
"""
EVERYTHING = """
from pathlib import Path
from anomalib.deploy import CompressionType, ExportType
from tests.tiny import tiny_data, tiny_engine, tiny_model
from anomalib_vqflow import VQFlow
from anomalib_vqflow.prediction.__main__ import main

root, given = Path(sys.argv[2]), Path(sys.argv[3])
engine, model = tiny_engine(given, logger=True), tiny_model(visualizer=True)
engine.train(model, datamodule=tiny_data(root))
engine.predict(VQFlow.load_from_checkpoint(engine.best_model_path), data_path=root / "bolt" / "test")
engine.export(model, ExportType.OPENVINO, given, compression_type=CompressionType.INT8)  # by ONNX, and NNCF
model = given / "weights" / "openvino" / "model.xml"
assert main([str(model), str(root), "--output", str(given / "out.csv"), "--masks", str(given / "masks")]) in (0, 1)
"""


@pytest.fixture
def watched(root, tmp_path):
    """Run a script in a home and working directory of its own; get what it did to the network and where it wrote."""

    def run(script):
        home, here, scratch = (tmp_path / name for name in ("home", "here", "scratch"))
        for folder in (home, here, scratch):
            folder.mkdir()
        environment = {name: value for name, value in os.environ.items() if name not in CI}
        folders = {"HOME": home, "PYTHONPATH": REPOSITORY}
        folders |= dict.fromkeys(("TMPDIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"), scratch)
        arguments = [str(path) for path in (tmp_path / "log", root, tmp_path / "given")]
        done = subprocess.run(
            [sys.executable, "-B", "-W", "ignore", "-c", WATCH + script, *arguments],
            env=environment | {name: str(folder) for name, folder in folders.items()},
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        events = (tmp_path / "log").read_text().splitlines()
        return [event for event in events if event.startswith("network")], [
            path
            for path in (Path(event.removeprefix("write ")) for event in events if event.startswith("write"))
            if not any(path.is_relative_to(place) for place in (tmp_path / "given", scratch, "/dev"))
        ]

    return run


@pytest.mark.skipif(importlib.util.find_spec("openvino_telemetry") is None, reason="OpenVINO tells nothing then")
def test_openvino_tells_that_it_is_used(watched, tmp_path):
    """Else the others prove nothing."""
    network, written = watched(OPENVINO)
    assert network
    assert tmp_path / "home" / "intel" in written


def test_commands_tell_nobody_and_write_nothing(watched, tmp_path):
    """When they import OpenVINO."""
    assert watched(COMMANDS) == ([], [])
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.slow
def test_a_model_lives_without_a_network_and_in_its_folder(watched, root, tmp_path):
    """Training, prediction, export with INT8 and the command write where they are told, and the data stay."""
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert watched(EVERYTHING) == ([], [])
    assert (tmp_path / "given" / "masks").is_dir()
    assert not [*(tmp_path / "home").iterdir(), *(tmp_path / "here").iterdir()]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_environment_is_as_before(monkeypatch):
    """What the user's own programs do there is theirs."""
    monkeypatch.delenv("CI", raising=False)
    with no_telemetry():
        assert os.environ["CI"] == "true"
    assert "CI" not in os.environ
