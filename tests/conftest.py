# SPDX-License-Identifier: Apache-2.0
"""What every test needs of the process that it shares with the others."""

import ctypes
import signal
import sys
from collections.abc import Iterator

import pytest
from lightning.pytorch import seed_everything
from torch.utils.data._utils import signal_handling

from .onnx_step import one_onnx_step, quick_patterns, shared_folder
from .tiny import tiny_data, tiny_engine, tiny_model, tiny_root

STACK_T_BYTES = 64  # more than any platform's


@pytest.fixture(autouse=True)
def signal_stack() -> Iterator[None]:
    """Give the thread its signal stack back after each test.

    Every ``openvino.Core`` (2026.4, Linux) brings a signal stack, and when it is destroyed restores the one before,
    which may be that of another ``Core``, freed long ago. The next signal with a handler in Python then ends the
    process by a segmentation fault; torch's data loaders install one for the end of child processes. So it is taken
    away as well: the next test may end a child process while it destroys a ``Core``.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(STACK_T_BYTES)
    libc.sigaltstack(None, before)
    yield
    libc.sigaltstack(before, None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal_handling._SIGCHLD_handler_set = False


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tiny_root(tmp_path_factory.mktemp("data") / "products")


@pytest.fixture(scope="session", autouse=True)
def _quick_exports():
    with quick_patterns():
        yield


@pytest.fixture(scope="session")
def onnx_steps(tmp_path_factory):
    """Within this context, exports of one model trace it once, in all processes of the tests together."""
    return lambda: one_onnx_step(shared_folder(tmp_path_factory) / "onnx-steps")


@pytest.fixture(scope="session")
def trained(root, tmp_path_factory):
    """A trained model, its engine, and the path of its checkpoint."""
    seed_everything(0)
    model = tiny_model()
    engine = tiny_engine(tmp_path_factory.mktemp("trained"))
    engine.train(model, datamodule=tiny_data(root))
    return model, engine, engine.best_model_path
