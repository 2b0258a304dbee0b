# SPDX-License-Identifier: Apache-2.0
"""Generates the pull requests to anomalib from this repository; see README.md here."""
