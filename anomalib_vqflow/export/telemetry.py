# SPDX-License-Identifier: Apache-2.0
"""An export is nobody else's business."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Keep OpenVINO and NNCF from telling Google Analytics of conversions, and from keeping an identity in ``~/intel``.

    Without a word of the user they do both, unless they believe to run in continuous integration.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"CI": "true", "NNCF_CI": "1"}))
        try:
            from openvino_telemetry.utils.sender import TelemetrySender
        except ImportError:
            pass  # then nothing is told
        else:  # what was set up before, by the user's own conversions, does not look at the environment again
            stack.enter_context(mock.patch.object(TelemetrySender, "send"))
        yield
