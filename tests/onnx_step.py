# SPDX-License-Identifier: Apache-2.0
"""Exports of one model share its tracing here, which takes most of the time, and their optimization is cut short."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from anomalib.models.components.base.export_mixin import ExportMixin
from filelock import FileLock
from onnxscript.rewriter.pattern import MatchResult, SimplePatternMatcher


@contextmanager
def one_onnx_step(folder):
    """Within, anomalib exports the same model with the same arguments once, also in processes that share the folder."""
    make = ExportMixin.to_onnx

    def kept_or_made(self, export_root, *arguments, **options):
        kept = folder / fingerprint(self, arguments, options)
        folder.mkdir(exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                make(self, f"{kept}.part", *arguments, **options)
                os.rename(f"{kept}.part", kept)
        (path,) = Path(shutil.copytree(kept, export_root, dirs_exist_ok=True)).rglob("*.onnx")
        return path

    with patch.object(ExportMixin, "to_onnx", kept_or_made):
        yield


@contextmanager
def quick_patterns():
    """Within, a pattern of several outputs is compared with nodes of its first one only.

    onnxscript (0.7) first lists all nodes of the graph, for each node and pattern: a fifth of the time of an export.
    """
    match = SimplePatternMatcher.match

    def match_first(self, model, graph_or_function, node, **options):
        first = self.pattern.output_nodes[0].op_identifier()
        if not self.pattern.has_single_output_node and first not in {None, node.op_identifier()}:
            return MatchResult().fail("Another kind of node.")
        return match(self, model, graph_or_function, node, **options)

    with patch.object(SimplePatternMatcher, "match", match_first):
        yield


def shared_folder(tmp_path_factory):
    """Get the temporary folder of all processes of the tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def fingerprint(model, *arguments):
    """Tell models and arguments apart."""
    post = model.post_processor
    settings = [getattr(post, name) for name in getattr(post, "_checkpoint_config_keys", ())]
    found = hashlib.sha256(repr((model, model.hparams, settings, arguments)).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.numpy(force=True).tobytes())
    return found.hexdigest()
