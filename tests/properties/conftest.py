# SPDX-License-Identifier: Apache-2.0
"""Profiles: ``ci`` always tries the same few examples, in less than a minute; ``long`` tries many others.

``pytest tests/properties --hypothesis-profile=long`` tries 10,000 of each kind, or as many as ``PROPERTY_EXAMPLES``
says, and a hundredth of that many trainings.
"""

import os

from hypothesis import HealthCheck, Phase, settings

from .oracle import COUNTS

COMMON = {
    "deadline": None,
    "database": None,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("ci", derandomize=True, max_examples=50, **COMMON)
settings.register_profile("long", max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "10000")), **COMMON)
settings.load_profile("ci")  # pytest loads the one of its option later


def pytest_terminal_summary(terminalreporter):
    """Tell how many examples worked, and how many did not."""
    if COUNTS:
        terminalreporter.section("properties")
    for topic, counts in sorted(COUNTS.items()):
        parts = [f"{counts[outcome]} {outcome}" for outcome in ("worked", "warned", "refused", "wrong")]
        terminalreporter.line(f"{topic}: {counts.total()} tried, {', '.join(parts)}")
