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
# so are requests for more outputs. Anything else (biases, for one) is refused.
_HARMLESS = {
    "dropout",
    "is_causal",
    "position_ids",
    "scaling",
    "sliding_window",
    "softcap",
    "s_aux",
    "use_cache",
}

# A position at which every layer's rotation shows, small enough that its float32 angles are exact to 1e-6.
_PROBE_POSITION = 5


RotaryModule = Any
"""A module of transformers with `inv_freq` and `attention_scaling` whose call gives cos and sin. Where layers
of several kinds rotate differently, one module has these once a kind, under names that begin with it, and is
called with the kind."""


class RotaryKind(NamedTuple):
    """One set of frequencies of a rotary module."""

    module: RotaryModule
    kind: str | None
    """None: the module has but one"""

    @property
    def prefix(self) -> str:
        return "" if self.kind is None else f"{self.kind}_"

    @property
    def inv_freq(self) -> torch.Tensor:
        return getattr(self.module, f"{self.prefix}inv_freq")

    @property
    def attention_scaling(self) -> float:
        return float(getattr(self.module, f"{self.prefix}attention_scaling"))

    def call(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The module's own cos and sin at one position, float32 (width,)."""
        device = self.inv_freq.device
        kind = () if self.kind is None else (self.kind,)
        output = self.module(
            torch.zeros(1, 1, 1, device=device), torch.tensor([[position]], device=device), *kind
        )
        if not isinstance(output, tuple) or len(output) != 2:
            raise InputError(f"{type(self.module).__name__} does not give cos and sin")
        cos, sin = output
        return cos.flatten(), sin.flatten()


def rotary_kinds(model: nn.Module) -> list[RotaryKind]:
    """The model's rotary embeddings: every module, each of its kinds. InputError if there is none, or if two
    modules disagree."""
    found: list[RotaryKind] = []
    for module in model.modules():
        types: Any = getattr(module, "layer_types", ())
        kinds = [kind for kind in types if torch.is_tensor(getattr(module, f"{kind}_inv_freq", None))]
        if torch.is_tensor(getattr(module, "inv_freq", None)):
            kinds = [None]
        found += [RotaryKind(module, kind) for kind in kinds]
    if not found:
        raise InputError(f"{type(model).__name__} has no rotary embedding of known frequencies")
    for each in found:
        first = next(other for other in found if other.kind == each.kind)
        if not torch.equal(each.inv_freq, first.inv_freq):
            raise InputError(f"{type(model).__name__} has rotary embeddings of different frequencies")
    return found


def frequencies_for(rotary: RotaryKind, length: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (float64) and attention factor that the model uses in sequences of `length`."""
    rotary.call(length - 1)
    result = rotary.inv_freq.detach().double().clone(), rotary.attention_scaling
    rotary.call(0)  # modules that keep what the longest sequence needed go back
    return result


def columns_of(rotary: RotaryKind) -> torch.Tensor:
    """Which frequency each column of the module's cos and sin belongs to, int64 (width,)."""
    cos, sin = rotary.call(1)
    angles = rotary.inv_freq.float()
    pairs = torch.arange(len(angles), device=cos.device)
    for columns in (pairs.repeat(2), pairs.repeat_interleave(2), pairs):
        if len(columns) == len(cos) and all(
            torch.allclose(function(angles)[columns] * rotary.attention_scaling, given, atol=1e-5, rtol=0)
            for function, given in ((torch.cos, cos), (torch.sin, sin))
        ):
            return columns
    raise InputError(f"{type(rotary.module).__name__}: its cos and sin are laid out in no way known here")


class LayerRotation(NamedTuple):
    """How a layer turns its queries and keys."""

    kind: str | None
    """RotaryKind.kind"""
    layout: Layout


class Probe(NamedTuple):
    rotations: dict[nn.Module, LayerRotation | None]
    """of each attention layer; None where a layer does not rotate"""
    windows: dict[nn.Module, int | None]
    """the sliding window of each; None where a layer sees everything"""


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
def probe(model: PreTrainedModel, kinds: list[RotaryKind]) -> Probe:
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
        rotaries = {each.kind: Rotary(each.inv_freq.double(), scale=each.attention_scaling) for each in kinds}
        with contextlib.ExitStack() as hooks:
            for module in {each.module for each in kinds}:
                hooks.callback(module.register_forward_hook(_no_rotation).remove)
            model(**arguments)
    if not rotated:
        raise InputError(f"{type(model).__name__} does not use transformers' attention interface")
    rotations = {layer: _rotation(layer, calls[layer][0], q, rotaries) for layer, (q, _) in rotated.items()}
    windows = {layer: arguments.get("sliding_window") or None for layer, (_, arguments) in rotated.items()}
    for layer, (_, arguments) in rotated.items():
        for name, value in arguments.items():
            if value is not None and name not in _HARMLESS and not name.startswith("output_"):
                raise InputError(
                    f"{type(layer).__name__} uses {name} in its attention, which DCA does not define"
                )
    return Probe(rotations, windows)


def _no_rotation(module: nn.Module, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """A forward hook: cos = 1 and sin = 0 leave queries and keys as they are."""
    return torch.ones_like(output[0]), torch.zeros_like(output[1])


def _rotation(
    layer: nn.Module, unrotated: torch.Tensor, rotated: torch.Tensor, rotaries: dict[str | None, Rotary]
) -> LayerRotation | None:
    """Which rotary, in which layout, takes the unrotated queries (heads, head_dim) to the rotated ones."""
    # Models compute cos and sin in float32 even where their weights are float64.
    precision = max(torch.finfo(rotated.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = 16 * precision * float(rotated.abs().max())
    position = torch.tensor(_PROBE_POSITION, device=rotated.device)
    if torch.allclose(unrotated, rotated, atol=tolerance, rtol=0):
        return None
    for kind, rotary in rotaries.items():
        for layout in get_args(Layout):
            found = replace(rotary, layout=layout).rotate(unrotated, position)
            if torch.allclose(found, rotated, atol=tolerance, rtol=0):
                return LayerRotation(kind, layout)
    raise InputError(f"{type(layer).__name__} rotates its queries in no way known here")
