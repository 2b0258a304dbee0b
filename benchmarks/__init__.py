# SPDX-License-Identifier: Apache-2.0
"""Measurements; not part of the package."""
