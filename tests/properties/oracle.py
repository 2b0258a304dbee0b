# SPDX-License-Identifier: Apache-2.0
"""Either the result equals that of the plain, well-formed equivalent, or an error or warning names what is odd.

What is tried is counted by topic: ``worked`` (without a word that the plain equivalent does not say), ``warned``,
``refused``, and ``wrong``, which fails the test.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException

COUNTS: dict[str, Counter[str]] = defaultdict(Counter)
REFUSALS = (ValueError, TypeError, FileNotFoundError, MisconfigurationException)


class Trial(NamedTuple):
    """What came of an attempt: a result, or the text of an error, and the texts of warnings."""

    result: Any
    error: str | None
    warnings: list[str]


class Difference(NamedTuple):
    """What differs from the plain equivalent, and the names by which a warning may tell it."""

    what: str
    names: tuple[str, ...]


def attempt(act: Callable[[], Any]) -> Trial:
    """Do something; any error but those that are meant for users passes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result, error = None, None
        try:
            result = act()
        except REFUSALS as refusal:
            error = str(refusal)
    return Trial(result, error, [str(warning.message) for warning in caught if warning.category is UserWarning])


def judge(
    topic: str,
    act: Callable[[], Any],
    compare: Callable[[Any], Iterable[Difference]],
    odd: Iterable[str] = (),
) -> str:
    """Judge an attempt.

    Args:
        topic: Where it counts.
        act: What is tried.
        compare: Finds how its result differs from that of the plain equivalent.
        odd: Names of what is odd, of which an error must tell one; without any, there must be no error.

    Returns:
        ``"worked"``, ``"warned"`` or ``"refused"``.

    Raises:
        AssertionError: If the result is another one, or there is an error, that tells no name.
    """
    COUNTS[topic]["wrong"] += 1  # until it turns out that it is not, whatever error comes
    trial = attempt(act)
    if trial.error is not None:
        assert tells(trial.error, odd), f"The error names none of {sorted(odd)}: {trial.error}"
        outcome = "refused"
    else:
        silent = [
            difference
            for difference in compare(trial.result)
            if not any(tells(warning, difference.names) for warning in trial.warnings)
        ]
        assert not silent, f"No warning tells that {silent}; there were {trial.warnings}"
        outcome = "warned" if trial.warnings else "worked"
    COUNTS[topic].update({outcome: 1, "wrong": -1})
    return outcome


def tells(text: str, names: Iterable[str]) -> bool:
    """Tell whether a text has one of the names; the path of a folder does not count where it begins a longer one."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?![\w/])", text) for name in names)
