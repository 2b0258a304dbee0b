# SPDX-License-Identifier: Apache-2.0
"""Recorded tensors of the paper's release, outside the repository: see their README for the names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDER = SHARED / "reference"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs the recorded tensors in {FOLDER}")

STEPS = (2, 3, 2)
CHANNELS = (8, 16, 24)


class Reference:
    """State, inputs and outputs of the release, in one floating-point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.state, self.inputs, self.outputs = (
            {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(FOLDER / file).items()}
            for file in ("state.safetensors", "inputs.safetensors", "eval_f64.safetensors")
        )
        self.dtype = dtype

    def sub(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}

    def details(self) -> list[Tensor]:
        return [nn.functional.avg_pool2d(self.inputs[f"eval_h{i}"], 3, 2, 1) for i in (1, 2, 3)]

    @property
    def semantic(self) -> Tensor:
        return self.inputs["eval_h4"]

    @property
    def prototype(self) -> Tensor:
        return self.outputs["conceptual_prototype"]

    def check(self, actual: Tensor, name: str) -> None:
        """Within 1e-9 of the largest entry in float64, 1e-5 in float32."""
        expected = self.outputs[name]
        tolerance = 1e-9 if self.dtype == torch.float64 else 1e-5
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= tolerance, f"{name}: relative error {error:.2e}"

    def load_codebook(self, codebook: nn.Module, name: str) -> None:
        codebook.codes.copy_(self.state[f"{name}.embed"].T)
        codebook.code_counts.fill_(1.0)  # the release knows no uninitialized codes

    def load_concept(self, concept: nn.Module) -> None:
        concept.mlp.load_state_dict(self.sub("semantic_mlp."))
        self.load_codebook(concept.codebook, "cpc_quantizer")

    def load_pattern(self, quantizer: nn.Module, level: int) -> None:
        quantizer.encoder.load_state_dict(self.sub(f"feature_mlps.{level}."))
        if quantizer.mixer is not None:
            quantizer.mixer.load_state_dict(self.sub(f"upsamplers.{level}.1."))
        self.load_codebook(quantizer.codebook, f"cspc_quantizers.{level}")

    def load_conditions(self, encoder: nn.Module) -> None:
        encoder.context.load_state_dict(self.sub("semantic_encoder."))
        for level, quantizer in enumerate((*encoder.quantizers, encoder.semantic_quantizer)):
            self.load_pattern(quantizer, level)

    def load_coupling(self, coupling: nn.Module, level: int, step: int) -> None:
        prefix = f"parallel_flows.{level}.module_list.{step}."
        for ours, theirs in (("conv1", "conv1"), ("norm", "ln"), ("conv2", "conv2")):
            coupling.subnet.get_submodule(ours).load_state_dict(self.sub(f"{prefix}subnet.{theirs}."))
        coupling.global_scale.data.copy_(self.state[prefix + "global_scale"])
        coupling.global_offset.data.copy_(self.state[prefix + "global_offset"])
        coupling.permutation.copy_(self.state[prefix + "w_perm"][:, :, 0, 0].argmax(dim=1))

    def load_gaussian(self, gaussian: nn.Module, level: int) -> None:
        """Find weights under which our log σ equals theirs on the recorded prototypes.

        Theirs is σ = sqrt(s² + 1e-8) with s linear in ŷ, ours is log σ linear in ŷ: the same function only on as many
        prototypes as the codebook has, where a linear map can interpolate. The mean is linear in both.
        """
        gaussian.mean.load_state_dict(self.sub(f"sigma_mu_generators.{level}.sigma."))
        codes = self.state["cpc_quantizer.embed"].T  # (K, D)
        generator = self.sub(f"sigma_mu_generators.{level}.mu.")
        log_std = 0.5 * ((codes @ generator["weight"].T + generator["bias"]).square() + 1e-8).log()  # (K, C)
        gaussian.log_std.weight.data.copy_((torch.linalg.pinv(codes) @ log_std).T)
        gaussian.log_std.bias.data.zero_()

    def load_fusion(self, fusion: nn.Module) -> None:
        for i in range(len(CHANNELS)):
            permutation = self.state[f"fusion_flow.module_list.{i}.perm"]
            fusion.permutations[CHANNELS.index(permutation.numel())].copy_(permutation)
        for subnet, name in ((fusion.first_subnet, "subnet_2"), (fusion.second_subnet, "subnet_1")):
            prefix = f"fusion_flow.module_list.3.{name}."
            for part in ("conv1", "norm", "conv2"):
                subnet.get_submodule(part).load_state_dict(self.sub(f"{prefix}cross_convs.{part}."))
            for level in range(len(CHANNELS)):
                subnet.scale_convs[level].load_state_dict(self.sub(f"{prefix}conv_s.{level}."))
                subnet.shift_convs[level].load_state_dict(self.sub(f"{prefix}conv_t.{level}."))

    def load_flow(self, flow: nn.Module) -> None:
        for level, steps in enumerate(STEPS):
            for step in range(steps):
                self.load_coupling(flow.levels[level][step], level, step)
            self.load_gaussian(flow.levels[level][steps], level)
        self.load_fusion(flow.fusion)
