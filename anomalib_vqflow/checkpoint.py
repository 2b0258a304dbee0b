# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint needs beyond Lightning's: whole files, and a refusal where it is broken or does not fit."""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from .checkpoint_files import CheckpointFiles
from .naming import first_names
from .resumption import ResumptionMixin

CHECKPOINT_KEY = "vqflow"
PRE_PROCESSOR_KEY = "anomalib_pre_processor_config"
CHECKPOINT_FORMAT = 3
"""What weights are called and mean. Checkpoints of version 0.1, which names them otherwise, tell no format."""
MAY_CHANGE = frozenset(
    {"pre_trained", "commitment_weight", "tail_weight", "lr", "warmup_ratio", "lr_schedule", "concept_novelty"}
)
"""Arguments that may change after a training, because they only say how to train; ``pre_trained``, because the weights
come from the checkpoint. All others change what the weights, the calibration or the thresholds mean."""
NO_CHECKPOINT = (AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, pickle.UnpicklingError)
"""What loading raises at files that are no checkpoints; a ``ValueError`` says what does not fit."""


def differing_arguments(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare the constructor arguments that a checkpoint was made with to those of the model that loads it.

    Args:
        found: Arguments in the checkpoint.
        wanted: Arguments of the model.

    Returns:
        The value in the checkpoint and the value in the model, by the name of each argument that differs.
        Those that may change are left out.
    """
    names = [name for name in found if name in wanted and name not in MAY_CHANGE]
    pairs = {name: (_plain(found[name]), _plain(wanted[name])) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def explain_mismatch(found: Mapping[str, Any], wanted: Mapping[str, Any], reason: str = "") -> str:
    """Tell why a checkpoint does not fit a model, and what to do.

    Args:
        found: Constructor arguments in the checkpoint.
        wanted: Constructor arguments of the model.
        reason: What torch said about it, if anything.

    Returns:
        Text of an error.
    """
    differing = differing_arguments(found, wanted)
    words = [f"{name}={old!r} in the checkpoint, {new!r} in this model" for name, (old, new) in differing.items()]
    if words:
        cause = f"The checkpoint was made with other arguments: {'; '.join(words)}."
        cure = "Build the model with the checkpoint's arguments, or let VQFlow.load_from_checkpoint(path) do it."
    elif any(name in wanted for name in found):
        cause = "The checkpoint was made with the same arguments, but does not hold the same weights."
        cure = "It may come from another version of this package: train again, or install that version."
    else:
        cause = "The checkpoint was not made by VQFlow, whose arguments it lacks."
        cure = "Give the checkpoint of a VQFlow."
    return " ".join(part for part in (cause, cure, reason) if part)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _transform_text(pre_processor: nn.Module | None) -> str:
    return repr(getattr(pre_processor, "transform", pre_processor))


def _lost_transform(pre_processor: nn.Module | None, checkpoint: Mapping[str, Any]) -> str:
    """Describe the transform of a pre-processor if the checkpoint does not hold it; empty if it does."""
    transform = getattr(pre_processor, "transform", pre_processor)
    held = checkpoint.get(PRE_PROCESSOR_KEY, {}).get("transform")
    return "" if transform is None or held is not None else _transform_text(pre_processor)


class CheckpointMixin(ResumptionMixin):
    """Checkpoints that are whole and resume exactly, and refusal of those that are broken or do not fit."""

    model: nn.Module
    pre_processor: nn.Module | None
    lr: float
    product_counts: dict[str, list[int]] | None
    _complete_step: int
    _loaded_arguments: Mapping[str, Any] | None = None

    def on_fit_start(self) -> None:
        """Write checkpoints whole, unless the user chose how."""
        super().on_fit_start()
        strategy = self.trainer.strategy
        if isinstance(strategy.checkpoint_io, TorchCheckpointIO):  # which is anomalib's, too
            strategy.checkpoint_io = CheckpointFiles(strategy.checkpoint_io)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the arguments, and what loading must know.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If a weight is not finite: the last checkpoint is not to be overwritten by a broken model.
        """
        super().on_save_checkpoint(checkpoint)
        broken = [name for name, parameter in self.model.named_parameters() if not parameter.isfinite().all()]
        if broken:
            msg = (
                f"Not saving a broken model: weights are NaN or infinite ({first_names(broken)}). Resume from the last "
                f"checkpoint with a smaller lr (now {self.lr}), or with precision 32 if it was lower."
            )
            raise ValueError(msg)
        # Lightning mixes the arguments of load_from_checkpoint into its own copy, so the true ones are kept beside it.
        arguments = checkpoint["hyper_parameters"]
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "arguments": dict(arguments),
            # Outside of a training the weights are those that the model was loaded with, or trained to.
            "complete": self._complete_step == checkpoint["global_step"] if self._resumes else self._complete_step >= 0,
            "product_counts": self.product_counts,
            "lost_transform": _lost_transform(self.pre_processor, checkpoint),
        }
        arguments["pre_trained"] = False  # the backbone's weights are in the checkpoint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another configuration.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If another version made the checkpoint, if it was trained with a transform that it could not
                hold and this model does not have, or if an argument differs that must not change after a training.
        """
        ours = checkpoint.get(CHECKPOINT_KEY, {})
        if lost := ours.get("lost_transform"):
            if _transform_text(self.pre_processor) != lost:
                msg = (
                    f"The checkpoint was trained with a transform that it cannot hold: {lost}. Build the same "
                    "pre-processor and give it: VQFlow.load_from_checkpoint(path, pre_processor=...)."
                )
                raise ValueError(msg)
            checkpoint.pop(PRE_PROCESSOR_KEY, None)  # which would replace the transform of this model by none
        super().on_load_checkpoint(checkpoint)
        if ours and ours.get("format") != CHECKPOINT_FORMAT:
            msg = (
                "This checkpoint was made by another version of anomalib-vqflow, whose weights have other names or "
                "meanings. Train again, or use it with that version, such as pip install 'anomalib-vqflow<0.2' for one "
                "of version 0.1."
            )
            raise ValueError(msg)
        self._loaded_arguments = ours.get("arguments", {})
        self.product_counts = ours.get("product_counts")
        if differing_arguments(self._loaded_arguments, self.hparams):
            raise ValueError(explain_mismatch(self._loaded_arguments, self.hparams))
        if ours.get("complete"):
            self._complete_step = checkpoint["global_step"]
        elif ours and not self._resumes:
            rank_zero_warn(
                f"This checkpoint was saved within a training, in epoch {checkpoint['epoch'] + 1}, before thresholds "
                "were set: it tells no labels. Resume the training with it (`fit` with this checkpoint)."
            )

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model that predicts: like anomalib, then in eval mode.

        Args:
            args: As in anomalib.
            kwargs: As in anomalib; constructor arguments among them must equal those of the training, except for those
                that only say how to train.

        Returns:
            The model, in eval mode; a training puts it into training mode.

        Raises:
            ValueError: If the checkpoint does not fit the arguments.
        """
        kwargs.setdefault("pre_trained", False)  # else the file would say what is downloaded or read
        return super().load_from_checkpoint(*args, **kwargs).eval()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load weights as torch does.

        Args:
            state_dict: Weights by name.
            strict: Whether names must match exactly.
            assign: Whether to take the tensors themselves.

        Returns:
            Missing and unexpected names.

        Raises:
            ValueError: If the weights of a checkpoint don't fit; the message names the arguments that differ.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            if self._loaded_arguments is None:
                raise
            raise ValueError(explain_mismatch(self._loaded_arguments, self.hparams, str(error))) from error
