# SPDX-License-Identifier: Apache-2.0
"""Conditions made of few distinct vectors, and convolutions that look them up instead of multiplying them."""

from .condition import Concepts, Condition, DiscreteCondition
from .convolution import ConditionedConv2d, frozen_tables

__all__ = ["Concepts", "Condition", "ConditionedConv2d", "DiscreteCondition", "frozen_tables"]
