# SPDX-License-Identifier: Apache-2.0
"""A report on what a trained model has learned: the command ``vqflow-report``.

No other module imports this package, so that matplotlib's import costs time only where something is plotted.
"""
