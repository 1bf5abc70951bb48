"""SmoothQuant: moves outliers from activations into weights, so that int8 loses less.

A few channels of this model's activations are up to 4,000 times the median, and int8 has one scale for a
whole row. Dividing a channel by s where it is made and multiplying the weights that read it by s leaves
the function as it was and makes both sides easier to quantise: s_j = max|x_j|^α / max|w_j|^(1−α)
(Xiao et al. 2023, https://arxiv.org/abs/2211.10438, equation 4). Measured on SmolLM2-135M: the KL
divergence of int8 from float32 falls from 0.16 to 0.075 nats a token, and running it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

ALPHA = 0.5
SMALLEST = 1e-5

# Plain text of several kinds: which channels are large hardly depends on what is read.
CALIBRATION_TEXTS = (
    "The weather in spring is mild, and people walk along the river in the evening.",
    "A good plan should fit the way you live; tell us what matters and we will look at it together.",
    "Our team has been glad to have you here from the first day, and we hope to be of help for years to come.",
    "What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b",
)


@torch.no_grad()
def smooth(model: Any, batches: Sequence[torch.Tensor]) -> None:
    """Smooths a Llama model in place; its outputs stay what they were, up to rounding.

    Args:
        model: a `LlamaForCausalLM` in float32.
        batches: token ids to calibrate with, each (1, tokens).
    """
    largest = _largest_inputs(model, batches)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _shift(layer.input_layernorm.weight, [attention.q_proj, attention.k_proj, attention.v_proj], largest)
        _shift(layer.post_attention_layernorm.weight, [mlp.gate_proj, mlp.up_proj], largest)
        # What down_proj reads is silu(gate) × up, so a row of up_proj scales it exactly.
        _shift(mlp.up_proj.weight, [mlp.down_proj], largest)


def _largest_inputs(model: Any, batches: Sequence[torch.Tensor]) -> dict[Any, torch.Tensor]:
    """Largest |input| of every linear layer by channel, (channels,), over all batches."""
    largest: dict[Any, torch.Tensor] = {}

    def note(module: Any, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        channels = inputs[0].abs().flatten(0, -2).amax(0)
        largest[module] = torch.maximum(largest.get(module, channels), channels)

    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_hook(note) for module in linears]
    for ids in batches:
        model(ids)
    for hook in hooks:
        hook.remove()
    return largest


def _shift(made_by: torch.Tensor, readers: Sequence[Any], largest: dict[Any, torch.Tensor]) -> None:
    """Divides the rows of `made_by` by the channels' scales and multiplies the readers' columns by them."""
    weights = torch.stack([reader.weight.abs().amax(0) for reader in readers]).amax(0).clamp(min=SMALLEST)
    scales = largest[readers[0]].clamp(min=SMALLEST) ** ALPHA / weights ** (1 - ALPHA)
    made_by.div_(scales if made_by.ndim == 1 else scales[:, None])
    for reader in readers:
        reader.weight.mul_(scales)
