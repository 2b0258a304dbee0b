# SPDX-License-Identifier: Apache-2.0
"""Exported models, ``model.xml`` or ``model.onnx``, in OpenVINO; neither torch nor anomalib is needed.

The model is compiled for one image at a time. An exported model takes any number, but then OpenVINO knows no sizes
inside of it, and much of its time goes into finding them out.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_vqflow.telemetry import no_telemetry

from .pixels import read, resize
from .predictions import CONCEPT, ModelError, Picture, Prediction, Raw

with no_telemetry():
    import openvino
    from openvino.preprocess import PrePostProcessor

SCORE, LABEL, MAP, MASK = "pred_score", "pred_label", "anomaly_map", "pred_mask"  # outputs
RAW_SCORE, RAW_MAP = "raw_score", "raw_map"  # tensors inside
RAW_SCORE_MAP = "raw_score_map"  # likewise, where it is not the raw map


class ExportedModel:
    """An exported model, compiled for single images.

    Args:
        path: ``model.xml`` or ``model.onnx``.
        device: Device of OpenVINO.
        precision: Type that it computes in. OpenVINO would choose bfloat16 on CPUs that can, which moves some scores.
            Where a device cannot, OpenVINO takes another one, with a warning from here.
        num_threads: Threads that compute; 0 for OpenVINO's choice.
        tells_raw: Whether predictions shall have raw scores and maps.

    Attributes:
        bit_depth: How many bits the 16-bit images of the training used; None if there were no such images.
        threshold: What the model holds scores against; None if there is none, or it cannot be found.
        num_requests: How many images are computed at once.
        tells_concept: Whether the model tells the concept of an image.
        metadata: What the file says of itself; None if it is older than metadata.

    Raises:
        ModelError: If the file is no exported model or does not tell what it shall, or OpenVINO knows no such device or
            precision.
    """

    def __init__(
        self,
        path: Path,
        device: str = "CPU",
        precision: str = "f32",
        num_threads: int = 0,
        tells_raw: bool = False,
    ) -> None:
        try:
            model = openvino.Core().read_model(path)
            self.metadata = _find_metadata(model)
            reveal_tensors(model, (CONCEPT, RAW_SCORE, RAW_MAP, RAW_SCORE_MAP) if tells_raw else (CONCEPT,))
            self.threshold = _find_threshold(model)
            self.bit_depth = _find_bit_depth(model)
            self.compiled = compile_model(model, device, precision, num_threads, self.bit_depth is not None)
        except (RuntimeError, ValueError) as error:  # the latter of what the file says of itself
            reason = str(error).strip().splitlines()[-1]
            msg = f"OpenVINO cannot load {path} for device {device} and precision {precision} ({reason})."
            raise ModelError(msg) from error
        _warn_of_another_precision(self.compiled, device, precision)
        self._told = {name for output in self.compiled.outputs for name in output.get_names()}
        if not {SCORE, MAP} <= self._told:
            msg = f"{path} has no outputs {SCORE} and {MAP}; give a model that anomalib has exported."
            raise ModelError(msg)
        self._raw_score = _raw_score(self._told, self.metadata)
        if tells_raw and not {self._raw_score, RAW_MAP, CONCEPT} <= self._told:
            msg = f"{path} was exported without its raw scores; export it again from its checkpoint."
            raise ModelError(msg)
        self.tells_concept = CONCEPT in self._told
        self.num_requests = self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._idle = [self.compiled.create_infer_request() for _ in range(self.num_requests)]
        size = self.compiled.input(0).get_partial_shape()[1:3]
        self._size = None if size.is_dynamic else (size[0].get_length(), size[1].get_length())

    def read(self, path: Path) -> Picture:
        """Read an image as in training, and resize it if the model takes a single size.

        Args:
            path: File.

        Returns:
            The image.

        Raises:
            Exception: One of ``UNREADABLE`` if it cannot be read.
        """
        pixels = read(path, self.bit_depth)
        return Picture(pixels, pixels if self._size is None else resize(pixels, self._size))

    def start(self, picture: Picture) -> Callable[[], Prediction]:
        """Begin to score an image.

        Args:
            picture: The image.

        Returns:
            A function that waits for the prediction. Only ``num_requests`` may not have been called at a time.
        """
        request = self._idle.pop()
        request.start_async({0: picture.given[None]})

        def collect() -> Prediction:
            request.wait()
            found = {name: request.get_tensor(name).data.copy() for name in self._told}  # the request is used again
            self._idle.append(request)
            return Prediction(
                score=found[SCORE].item(),
                label=bool(found[LABEL].item()) if LABEL in found else None,
                threshold=self.threshold,
                anomaly_map=found[MAP][0, 0],
                mask=found[MASK][0, 0].astype(bool) if MASK in found else None,
                concept=int(found[CONCEPT].item()) if CONCEPT in found else None,
                raw=_raw(found, self._raw_score),
            )

        return collect


def _raw_score(told: Set[str], metadata: Mapping[str, Any] | None) -> str:
    """Find the name of the raw score: that of the score where there was no threshold to normalize by."""
    thresholds = (metadata or {}).get("thresholds") or {}
    is_raw = "image" in thresholds and thresholds["image"]["raw"] is None
    return SCORE if RAW_SCORE not in told and is_raw else RAW_SCORE


def _raw(found: Mapping[str, np.ndarray], score: str) -> Raw | None:
    if not {score, RAW_MAP} <= found.keys():
        return None
    raw_map = found[RAW_MAP]
    return Raw(found[score].item(), raw_map[0, 0], found.get(RAW_SCORE_MAP, raw_map)[0, 0])


def reveal_tensors(model: openvino.Model, names: Sequence[str]) -> None:
    """Make tensors inside of a model outputs, where it has them.

    Args:
        model: An exported model, which is changed.
        names: Names of tensors.
    """
    inside = {name for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()}
    told = {name for output in model.outputs for name in output.get_names()}
    for name in names:
        if name in inside - told:
            model.add_outputs(name)


def compile_model(
    model: openvino.Model, device: str, precision: str, num_threads: int, is_deep: bool
) -> openvino.CompiledModel:
    """Compile a model for single images of 8 bits, which it scales itself, or for images in [0, 1].

    Args:
        model: An exported model, which is changed.
        device: Device of OpenVINO.
        precision: Type that it computes in.
        num_threads: Threads that compute; 0 for OpenVINO's choice.
        is_deep: Whether images are in [0, 1], because some have more than 8 bits.

    Returns:
        A model that takes RGB of shape ``(1, H, W, 3)``.
    """
    shape = model.input(0).get_partial_shape()
    shape[0] = 1
    model.reshape({model.input(0): shape})
    steps = PrePostProcessor(model)
    steps.input(0).tensor().set_layout(openvino.Layout("NHWC"))
    steps.input(0).model().set_layout(openvino.Layout("NCHW"))
    if not is_deep:
        steps.input(0).tensor().set_element_type(openvino.Type.u8)
        steps.input(0).preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    settings: dict[str, object] = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    if num_threads:
        settings["INFERENCE_NUM_THREADS"] = num_threads
    return openvino.Core().compile_model(steps.build(), device, settings)


def _warn_of_another_precision(compiled: openvino.CompiledModel, device: str, precision: str) -> None:
    name = "INFERENCE_PRECISION_HINT"
    if name not in compiled.get_property("SUPPORTED_PROPERTIES"):  # of devices that choose among others
        return
    used = compiled.get_property(name).get_type_name()
    if used not in (precision.lower().replace("fp", "f"), "dynamic"):  # the latter leaves OpenVINO the choice
        msg = f"Device {device} cannot compute in {precision}; it computes in {used}, and scores and speed are those."
        warnings.warn(msg, stacklevel=3)


def _find_bit_depth(model: openvino.Model) -> int | None:
    place = ["framework", "bit_depth"]
    return int(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else None


def _find_metadata(model: openvino.Model) -> dict[str, Any] | None:
    for place in (["vqflow"], ["framework", "vqflow"]):  # of OpenVINO's files, and of ONNX files
        if model.has_rt_info(place):
            found: dict[str, Any] = json.loads(model.get_rt_info(place).astype(str))
            return found
    return None


def _find_threshold(model: openvino.Model) -> float | None:
    """Find the constant that the score is compared with for its label; None if there is none."""
    for output in model.outputs:
        if LABEL in output.get_names():
            comparison = output.get_node().input_value(0).get_node()
            inputs = [value.get_node() for value in comparison.input_values()]
            # FP16 models convert their constants back to FP32.
            nodes = [n.input_value(0).get_node() if n.get_type_name() == "Convert" else n for n in inputs]
            constants = [node for node in nodes if node.get_type_name() == "Constant"]
            return float(constants[0].get_data().item()) if constants else None
    return None
