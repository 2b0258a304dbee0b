# SPDX-License-Identifier: Apache-2.0
"""Scores of image files from an exported model, without torch, or from a checkpoint: the command ``vqflow-predict``.

No module but :mod:`.trained` imports torch, and that one only for a checkpoint.
"""
