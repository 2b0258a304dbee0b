# SPDX-License-Identifier: Apache-2.0
"""Feature cache: the maps of the frozen backbone, computed once for all epochs and trainings."""

from .feature_cache import FeatureCache

__all__ = ["FeatureCache"]
