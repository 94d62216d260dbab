"""What a transformers model's own rotary embedding does, found by asking the model.

One token goes through the model twice, rotated and not, and every attention layer's queries are compared:
what `Rotary` computes must take the one to the other. So nothing about a model's code is assumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from dca_export.errors import InputError
from dca_export.reference.rotary import Layout, Rotary

# The name of the recording function in transformers' registry of attention implementations.
PROBE_IMPLEMENTATION = "dca_reference_probe"

# What a model may hand to its attention beside q, k, v that is dealt with or does not change the result;
# so are requests for more outputs. Anything else (soft-capping, sinks, biases) is refused.
_HARMLESS = {"dropout", "is_causal", "position_ids", "scaling", "sliding_window", "use_cache"}

# A position at which every layer's rotation shows, small enough that its float32 angles are exact to 1e-6.
_PROBE_POSITION = 5


RotaryModule = Any
"""A module of transformers with `inv_freq` and `attention_scaling` whose call gives cos and sin."""


def rotary_modules(model: nn.Module) -> list[RotaryModule]:
    """The model's rotary embeddings, all of the same frequencies; InputError otherwise."""
    modules: list[RotaryModule] = [
        module for module in model.modules() if torch.is_tensor(getattr(module, "inv_freq", None))
    ]
    if not modules:
        raise InputError(f"{type(model).__name__} has no rotary embedding of one set of frequencies")
    for module in modules[1:]:
        if not torch.equal(module.inv_freq, modules[0].inv_freq):
            raise InputError(f"{type(model).__name__} has rotary embeddings of different frequencies")
    return modules


def _call_rotary(module: RotaryModule, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The module's own cos and sin at one position, float32 (width,)."""
    device = module.inv_freq.device
    output = module(torch.zeros(1, 1, 1, device=device), torch.tensor([[position]], device=device))
    if not isinstance(output, tuple) or len(output) != 2:
        raise InputError(f"{type(module).__name__} does not give cos and sin")
    cos, sin = output
    return cos.flatten(), sin.flatten()


def frequencies_for(module: RotaryModule, length: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (float64) and attention factor that the model uses in sequences of `length`."""
    _call_rotary(module, length - 1)
    result = module.inv_freq.detach().double().clone(), float(module.attention_scaling)
    _call_rotary(module, 0)  # modules that keep what the longest sequence needed go back
    return result


def columns_of(module: RotaryModule) -> torch.Tensor:
    """Which frequency each column of the module's cos and sin belongs to, int64 (width,)."""
    cos, sin = _call_rotary(module, 1)
    pairs = torch.arange(len(module.inv_freq), device=cos.device)
    angles = module.inv_freq.float()
    for columns in (pairs.repeat(2), pairs.repeat_interleave(2), pairs):
        if len(columns) == len(cos) and all(
            torch.allclose(function(angles)[columns] * module.attention_scaling, found, atol=1e-5, rtol=0)
            for function, found in ((torch.cos, cos), (torch.sin, sin))
        ):
            return columns
    raise InputError(f"{type(module).__name__}: its cos and sin are laid out in no way known here")


class Probe(NamedTuple):
    layouts: dict[nn.Module, Layout | None]
    """of each attention layer; None where a layer does not rotate"""
    sliding_window: int | None
    """the longest of any layer"""


@contextlib.contextmanager
def _recorded(model: PreTrainedModel) -> Iterator[dict[nn.Module, tuple[torch.Tensor, dict[str, Any]]]]:
    """Within the block, attention records its layers' queries and arguments instead of attending."""
    calls: dict[nn.Module, tuple[torch.Tensor, dict[str, Any]]] = {}

    def record(module, query, key, value, attention_mask, **others):
        calls[module] = (query[0, :, 0].detach(), others)
        # One token attends to itself alone: the result is its value, however q and k are rotated.
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2), None

    earlier = model.config._attn_implementation
    AttentionInterface.register(PROBE_IMPLEMENTATION, record)
    model.set_attn_implementation(PROBE_IMPLEMENTATION)
    try:
        yield calls
    finally:
        model.set_attn_implementation(earlier)


@torch.no_grad()
def probe(model: PreTrainedModel, modules: list[RotaryModule]) -> Probe:
    """Sends one token through the model with and without its rotation and compares each layer's queries."""
    embedding: Any = model.get_input_embeddings().weight
    ramp = torch.linspace(-1, 1, embedding.shape[1], device=embedding.device, dtype=embedding.dtype)
    arguments = {
        "inputs_embeds": ramp[None, None],
        "position_ids": torch.tensor([[_PROBE_POSITION]], device=embedding.device),
        "use_cache": False,
    }
    with _recorded(model) as calls:
        model(**arguments)
        rotated = dict(calls)
        rotary = Rotary(modules[0].inv_freq.double(), scale=float(modules[0].attention_scaling))
        with contextlib.ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_hook(_no_rotation).remove)
            model(**arguments)
    if not rotated:
        raise InputError(f"{type(model).__name__} does not use transformers' attention interface")
    layouts = {layer: _layout(layer, calls[layer][0], q, rotary) for layer, (q, _) in rotated.items()}
    windows = {arguments.get("sliding_window") for _, arguments in rotated.values()}
    for layer, (_, arguments) in rotated.items():
        for name, value in arguments.items():
            if value is not None and name not in _HARMLESS and not name.startswith("output_"):
                raise InputError(
                    f"{type(layer).__name__} uses {name} in its attention, which DCA does not define"
                )
    return Probe(layouts, max((each for each in windows if each), default=None))


def _no_rotation(module: nn.Module, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """A forward hook: cos = 1 and sin = 0 leave queries and keys as they are."""
    return torch.ones_like(output[0]), torch.zeros_like(output[1])


def _layout(
    layer: nn.Module, unrotated: torch.Tensor, rotated: torch.Tensor, rotary: Rotary
) -> Layout | None:
    """The layout in which `rotary` takes the unrotated queries (heads, head_dim) to the rotated ones."""
    # Models compute cos and sin in float32 even where their weights are float64.
    precision = max(torch.finfo(rotated.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = 16 * precision * float(rotated.abs().max())
    position = torch.tensor(_PROBE_POSITION, device=rotated.device)
    if torch.allclose(unrotated, rotated, atol=tolerance, rtol=0):
        return None
    for layout in get_args(Layout):
        found = replace(rotary, layout=layout).rotate(unrotated, position)
        if torch.allclose(found, rotated, atol=tolerance, rtol=0):
            return layout
    raise InputError(f"{type(layer).__name__} rotates its queries in no way known here")
