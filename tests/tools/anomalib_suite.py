# SPDX-License-Identifier: Apache-2.0
"""Run anomalib's own model tests for VQFlow, offline.

anomalib does not install its tests. Give this script a copy of its repository (``tests/`` and ``examples/`` are
enough), of the installed version or near it:

    git clone --depth 1 --branch lib/v2.7.0 https://github.com/open-edge-platform/anomalib
    python tests/tools/anomalib_suite.py anomalib

It runs ``tests/integration/model/test_models.py`` there, for VQFlow only, with its defaults, and with downloads of
backbone weights switched off: the tests are about the calls, and pass with random weights. Other arguments go to
pytest.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

TESTS = "tests/integration/model/test_models.py"


def main() -> int:
    """Run the tests as the command line asks; return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="copy of anomalib's repository")
    arguments, pytest_arguments = parser.parse_known_args()  # what is not ours is pytest's
    if not (arguments.repository / TESTS).is_file():
        parser.error(f"{arguments.repository} is no copy of anomalib's repository: it has no {TESTS}.")
    here = Path(__file__).resolve()
    # A file of ours, not anomalib's pyproject.toml: its options name plugins that its wheel does not install.
    command = [sys.executable, "-m", "pytest", TESTS, "-c", os.devnull, "--rootdir", ".", "-p", here.stem]
    command += ["-k", "v_q_flow", "-ra", "-v", *pytest_arguments]
    path = os.pathsep.join([str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=arguments.repository, env=environment, check=False).returncode


def pytest_configure(config: object) -> None:
    """Switch downloads off; pytest calls it, as this is its plugin."""
    del config
    builder = importlib.import_module("timm.models._builder")
    builder.load_pretrained = lambda *_, **__: None
    # Their fixture writes a dummy of every dataset. The one in Parquet, which needs a package more, is not used here.
    pd.DataFrame.to_parquet = lambda *_, **__: None


if __name__ == "__main__":
    sys.exit(main())
