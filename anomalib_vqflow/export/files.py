# SPDX-License-Identifier: Apache-2.0
"""Files that come into being whole or not at all, and what an ONNX file tells."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from anomalib.deploy import ExportType
from anomalib.models.components.base.export_mixin.utils import create_export_root

from anomalib_vqflow.telemetry import no_telemetry

LOADED = frozenset({".xml", ".onnx", ".pt"})
"""Suffixes of the files that a user names; those beside them are found by them."""
NO_ROOM = frozenset({errno.EDQUOT, errno.EFBIG, errno.ENOSPC})
NO_ROOM_ELSEWHERE = ("iostream error", "PytorchStreamWriter")
"""What OpenVINO and torch say of a full disk."""


@contextmanager
def whole_files(export_root: Path | str, kind: ExportType) -> Iterator[str]:
    """Move an export's files to their place when it is done; a failed one leaves those that were there.

    Whenever the process ends, there is no model of two exports: the file that is loaded goes first and comes last.
    Meanwhile, nobody is told of it; see :func:`.no_telemetry`.

    Args:
        export_root: Folder to export to.
        kind: Kind of export.

    Yields:
        Folder to export to in the meantime.

    Raises:
        OSError: If the disk is full.
    """
    place = create_export_root(export_root, kind)
    with no_telemetry(), TemporaryDirectory(prefix=".export-", dir=place) as folder:
        try:
            yield folder
        except (OSError, RuntimeError) as error:
            if getattr(error, "errno", None) in NO_ROOM or any(words in str(error) for words in NO_ROOM_ELSEWHERE):
                msg = f"The disk has no room for the export to {place} ({error}). What was there before still is."
                raise OSError(msg) from error
            raise
        files = list(create_export_root(folder, kind).iterdir())
        loaded = [path for path in files if path.suffix in LOADED]
        others = [path for path in files if path.suffix not in LOADED]
        for path in loaded if others else []:
            (place / path.name).unlink(missing_ok=True)
        for path in (*others, *loaded):
            path.replace(place / path.name)


def finish_onnx(path: Path, outputs: Sequence[str], opset: int, notes: Mapping[str, str] | None = None) -> None:
    """Keep some outputs of an ONNX file only, the others as tensors inside, and add notes to its metadata.

    Args:
        path: The file, changed in place.
        outputs: Names of the outputs to keep, in their order.
        opset: The operator set that was asked for.
        notes: Entries of the metadata by name.

    Raises:
        ValueError: If torch wrote another operator set.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    written = {entry.domain: entry.version for entry in model.opset_import}[""]
    if written != opset:
        msg = f"torch cannot write this model with opset_version={opset}, only with {written}; leave the argument out."
        raise ValueError(msg)
    by_name = {output.name: output for output in model.graph.output}
    kept = [by_name[name] for name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    for key, value in (notes or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
