# SPDX-License-Identifier: Apache-2.0
"""Accuracy of methods on backbones and data over seeds, one row per run, and what becomes of the rows."""
