# SPDX-License-Identifier: Apache-2.0
"""Run the command as ``python -m anomalib_vqflow.pictures``."""

from .command import main

if __name__ == "__main__":
    main()
