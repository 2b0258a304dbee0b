# SPDX-License-Identifier: Apache-2.0
"""The training of the backbone ``vqflow_tiny`` on procedural scenes; see :mod:`.train`."""
