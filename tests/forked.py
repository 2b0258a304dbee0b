# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked from one that has imported everything, so that each begins at once."""

import multiprocessing
import os
import sys
from importlib.metadata import entry_points

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["anomalib.cli.cli", "anomalib.engine", "tests.killed"])


def run_command(name, *arguments, folder):
    """Run a command that a package installs, in a folder.

    Args:
        name: Of the command.
        arguments: Its arguments.
        folder: Its working directory.

    Returns:
        Its exit code, and what it printed.
    """
    output = folder / "printed.txt"
    process = CONTEXT.Process(target=_command, args=(name, arguments, folder, output))
    process.start()
    process.join()
    printed = output.read_text(encoding="utf-8")
    output.unlink()
    return process.exitcode, printed


def _command(name, arguments, folder, output):
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = [name, *arguments]
    (script,) = entry_points(group="console_scripts", name=name)
    sys.exit(script.load()())
