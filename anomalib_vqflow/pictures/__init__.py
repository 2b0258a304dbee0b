# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a trained model has learnt: the command ``vqflow-report``.

Nothing else imports this room, so that its plotting library costs time only where it draws.
"""
