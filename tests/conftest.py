# SPDX-License-Identifier: Apache-2.0
"""What every test needs of the process that it shares with the others."""

import ctypes
import sys
from collections.abc import Iterator

import pytest

STACK_T_BYTES = 64  # more than any platform's


@pytest.fixture(autouse=True)
def signal_stack() -> Iterator[None]:
    """Give the thread its signal stack back after each test.

    Every ``openvino.Core`` (2026.4, Linux) brings a signal stack, and when it is destroyed restores the one before,
    which may be that of another ``Core``, freed long ago. The next signal with a handler in Python then ends the
    process by a segmentation fault; torch's data loaders install one for the end of child processes.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(STACK_T_BYTES)
    libc.sigaltstack(None, before)
    yield
    libc.sigaltstack(before, None)
