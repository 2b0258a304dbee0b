# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-repository``, which makes a folder that OpenVINO Model Server serves; no torch is needed."""
