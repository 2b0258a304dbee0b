# SPDX-License-Identifier: Apache-2.0
"""What a cell is conditioned on, and the convolution that looks it up in tables instead of multiplying it."""

from .convolution import ConditionedConv2d, frozen_tables
from .discrete import Condition, DiscreteCondition, dense_condition
from .encoder import ConditionEncoder, Conditions

__all__ = [
    "Condition",
    "ConditionEncoder",
    "ConditionedConv2d",
    "Conditions",
    "DiscreteCondition",
    "dense_condition",
    "frozen_tables",
]
