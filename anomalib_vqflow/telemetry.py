# SPDX-License-Identifier: Apache-2.0
"""Nobody is told of what a user does here."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Keep OpenVINO and NNCF from telling Google Analytics that they are used, and from an identity in ``~/intel``.

    Without a word of the user they do both, when they are imported and at every conversion, unless they believe to run
    in continuous integration.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"CI": "true", "NNCF_CI": "1"}))
        try:
            from openvino_telemetry.utils.sender import TelemetrySender
        except ImportError:
            pass  # then nothing is told
        else:  # what the user has imported before does not look at the environment again
            stack.enter_context(mock.patch.object(TelemetrySender, "send"))
        yield
