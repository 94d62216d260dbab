"""Calls of a patched model that it would answer wrongly, and the errors they get instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from dca_export.errors import InputError
from dca_export.reference.probe import RotaryModule


def check_query(query: torch.Tensor, attention_mask: torch.Tensor | None, others: dict[str, Any]) -> None:
    """Raises InputError for what reaches the attention and is not one sequence under a causal mask."""
    if query.shape[0] != 1:
        raise InputError(f"the DCA reference runs one sequence at a time, got a batch of {query.shape[0]}")
    if attention_mask is not None:
        raise InputError("the DCA reference makes its own causal mask and takes no other")
    if others.get("dropout"):
        raise InputError("the DCA reference has no dropout; call model.eval() first")


def check_softmax(cap: float | None, sinks: torch.Tensor | None) -> None:
    """Raises InputError where a model's softmax is not the ordinary one, for methods that do not say how."""
    if cap is not None or sinks is not None:
        raise InputError(
            "the model caps its attention's logits or adds sinks to them, which this method does not define"
        )


def check_positions(positions: torch.Tensor, queries: int, keys: int) -> None:
    """Raises InputError unless the positions are those of the cache's last tokens.

    positions: (…, queries) as the rotary module got them; keys: tokens in the cache, these ones included.
    The attention counts the cache's tokens, so any other positions would be passed over.
    """
    expected = torch.arange(keys - queries, keys, device=positions.device)
    wrong = positions.reshape(-1, positions.shape[-1]) != expected if positions.shape[-1] == queries else None
    if wrong is None or bool(wrong.any()):
        found = positions.reshape(-1, positions.shape[-1])[0].tolist()
        raise InputError(
            f"the DCA reference needs positions that count the cache's tokens, here {keys - queries} to "
            f"{keys - 1}, and a cache that grows (DynamicCache); got {_shortened(found)}"
        )


def _shortened(numbers: list[int], most: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f", … ({len(numbers)} in all)" if len(numbers) > most else "")


def check_attention_in_use(layers: Iterable[nn.Module], implementation: str) -> None:
    """Raises InputError if a layer would hand its rotated keys to another attention than ours."""
    for layer in layers:
        config: Any = getattr(layer, "config", None)
        used = getattr(config, "_attn_implementation", implementation)
        if used != implementation:
            raise InputError(
                f"the model was patched with the DCA reference and its attention switched to {used} "
                "afterwards; restore() the patch first"
            )


# Written into caches by the model that fills them; deep copies keep it.
_MARK = "_dca_reference"


def watch_calls(model: PreTrainedModel, rotation: object, undo: contextlib.ExitStack) -> None:
    """Lets the model, and the models in it, raise InputError where attention weights are asked for, and for
    a cache that was filled under another `rotation` (or none): its keys are turned otherwise."""

    def before(module: Any, inputs: Any, arguments: dict[str, Any]) -> None:
        asked = arguments.get("output_attentions")
        if asked is None:
            asked = getattr(module.config, "output_attentions", False)
        if asked:
            raise InputError(
                "the DCA reference has no attention weights to give; leave output_attentions out"
            )
        cache: Any = arguments.get("past_key_values")
        if isinstance(cache, Cache) and getattr(cache, _MARK, None) != rotation:
            if int(cache.get_seq_length()) > 0:
                raise InputError("this cache was filled before this patch of the model; start a new one")
            setattr(cache, _MARK, rotation)

    def after(module: Any, inputs: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, Cache):
            setattr(cache, _MARK, rotation)

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            undo.callback(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)
            undo.callback(module.register_forward_hook(after).remove)


class OfACopy:
    """What a rotary module of a deep copy has for its forward: copies know nothing of the patch."""

    def __call__(self, *arguments: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise InputError(
            "this model is a copy of one that was patched with the DCA reference; restore() the patch, copy, "
            "then patch the copy"
        )


def replace_forward(module: RotaryModule, forward: Any, undo: contextlib.ExitStack) -> None:
    """Gives a module another forward until `undo` is closed."""
    if "forward" in module.__dict__:  # accelerate's hooks live there
        undo.callback(setattr, module, "forward", module.forward)
    else:
        undo.callback(delattr, module, "forward")
    module.forward = forward
