"""Makes any RoPE causal model of transformers run Dual Chunk Attention, without a copy of its code.

How: the model's rotary module is made to answer with the key positions P_k (index modulo s) whatever
positions it is asked for. The model then rotates its keys as DCA wants them before they go into its
ordinary cache, and its queries at P_intra, which is the same number. A function registered as a
transformers attention implementation receives both; it turns the queries on by P_succ − P_intra and
P_inter − P_intra, since rotations add up, and calls the eager or the flash attention of this package.

probe.py sees to it that the rotation this package knows is the model's own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from dca_export.errors import InputError
from dca_export.reference.attention import Attention, Queries, check_attention, eager_attention
from dca_export.reference.flash import flash_attention
from dca_export.reference.positions import key_positions, query_positions
from dca_export.reference.probe import columns_of, frequencies_for, probe, rotary_modules
from dca_export.reference.refusals import (
    OfACopy,
    check_attention_in_use,
    check_positions,
    check_query,
    replace_forward,
    watch_calls,
)
from dca_export.reference.rotary import Rotary
from dca_export.reference.sparse import SparsePrefill, hidden_keys

if TYPE_CHECKING:
    from dca_export.scheme import Scheme

Kernel = Literal["eager", "flash"]

# The name of our functions in transformers' registries of attention and mask implementations.
IMPLEMENTATION = "dca_reference"


def patch(
    model: PreTrainedModel,
    scheme: Scheme | None,
    attention: Attention = "dca",
    kernel: Kernel = "eager",
    *,
    ignore_sliding_window: bool = False,
    rope_length: int | None = None,
    sparse: SparsePrefill | None = None,
) -> Patch:
    """Changes `model` in place; undo with `.restore()` or use the result in a `with` statement.

    Prefill, decode and `generate` work with the model's DynamicCache, one sequence at a time. The cache
    holds keys rotated at P_k, so a cache made before the patch must not be used after it, or the reverse.
    `attention="plain"` needs no scheme and gives the model's own causal attention in bounded memory.

    A model with a sliding window is refused unless `ignore_sliding_window`: then every layer sees every
    token. Frequencies that depend on the length (dynamic NTK, LongRoPE) are fixed to those for `rope_length`
    tokens: by default c, and the model's max_position_embeddings for plain attention. `sparse`: prompts
    attend sparsely, with the eager kernel.

    Raises InputError if the model cannot be patched and ValueError for an attention or kernel unknown.
    """
    check_attention(attention, scheme)
    if kernel not in ("eager", "flash"):
        raise ValueError(f"kernel is {kernel!r}, must be eager or flash")
    if sparse is not None and kernel != "eager":
        raise ValueError("sparse prefill is for the eager kernel")
    if model in _PATCHED:
        raise InputError(f"{type(model).__name__} is patched already; restore() the earlier patch first")
    if attention == "plain":
        scheme = None
    config = model.config.get_text_config(decoder=True)
    length = rope_length or (config.max_position_embeddings if scheme is None else scheme.pretraining_length)

    modules = rotary_modules(model)
    layouts, window = probe(model, modules)
    if window is not None and not ignore_sliding_window:
        raise InputError(
            f"{type(model).__name__} attends within a sliding window of {window} tokens, which DCA does not "
            "define; ignore_sliding_window=True lets every layer see every token"
        )
    frequencies, scale = frequencies_for(modules[0], length)
    fed = _Fed()
    with contextlib.ExitStack() as undo:
        for module in modules:
            keys = _KeyRotation(Rotary(frequencies), columns_of(module), scale, scheme, WeakSet(layouts), fed)
            replace_forward(module, keys, undo)
        for layer, layout in layouts.items():
            rotary = None if layout is None else Rotary(frequencies, layout, scale)
            _LAYERS[layer] = _Layer(scheme, attention, kernel, rotary, fed, sparse)
            undo.callback(_LAYERS.pop, layer, None)
        if window is not None:
            if getattr(config, "layer_types", None) is not None:
                _set(config, "layer_types", ["full_attention"] * config.num_hidden_layers, undo)
            else:
                _set(config, "sliding_window", None, undo)
        undo.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation(IMPLEMENTATION)
        watch_calls(model, (scheme, length), undo)
        _PATCHED.add(model)
        undo.callback(_PATCHED.discard, model)
        return Patch(model, undo.pop_all())


class Patch:
    """A model that runs the reference until `restore()` or the end of the `with` block."""

    def __init__(self, model: PreTrainedModel, undo: contextlib.ExitStack) -> None:
        self.model = model
        self._undo = undo

    def restore(self) -> None:
        """Gives the model back as it was; harmless when called twice."""
        self._undo.close()

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def _set(target: Any, name: str, value: Any, undo: contextlib.ExitStack) -> None:
    undo.callback(setattr, target, name, getattr(target, name))
    setattr(target, name, value)


@dataclass
class _Fed:
    """The positions of the tokens that go through the model now."""

    positions: torch.Tensor | None = None
    checked: bool = False
    """whether the attention has compared them with its cache"""


@dataclass(frozen=True)
class _KeyRotation:
    """A rotary module's forward: answers with P_k of the positions it is asked for."""

    rotary: Rotary
    columns: torch.Tensor
    scale: float
    scheme: Scheme | None
    layers: WeakSet[nn.Module]
    fed: _Fed

    def __call__(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        check_attention_in_use(self.layers, IMPLEMENTATION)
        self.fed.positions, self.fed.checked = position_ids, False
        angles = self.rotary.angles(key_positions(position_ids, self.scheme))[..., self.columns]
        return (angles.cos() * self.scale).to(x.dtype), (angles.sin() * self.scale).to(x.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> OfACopy:
        return OfACopy()


# The attention implementation.


@dataclass(frozen=True)
class _Layer:
    scheme: Scheme | None
    attention: Attention
    kernel: Kernel
    rotary: Rotary | None
    """None: a layer that does not rotate"""
    fed: _Fed
    sparse: SparsePrefill | None


_LAYERS: WeakKeyDictionary[nn.Module, _Layer] = WeakKeyDictionary()
_PATCHED: WeakSet[PreTrainedModel] = WeakSet()


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, heads, n, d) and a cache of m tokens → (1, n, heads, d)."""
    layer = _LAYERS.get(module)
    if layer is None:
        raise InputError("this model was not patched with the DCA reference itself; patch() it")
    n, m = query.shape[2], key.shape[2]
    check_query(query, attention_mask, others)
    if layer.fed.positions is not None and not layer.fed.checked:
        check_positions(layer.fed.positions, n, m)
        layer.fed.checked = True
    indices = torch.arange(m - n, m, device=query.device)
    q = query[0]
    if layer.kernel == "eager":
        q = q.to(torch.promote_types(q.dtype, torch.float32))  # the turned queries are not rounded again
    queries = Queries(q, q, q)
    if layer.scheme is not None and layer.rotary is not None:
        positions = query_positions(indices, layer.scheme)
        queries = Queries(q, *(layer.rotary.advance(q, each - positions.intra) for each in positions[1:]))
    if layer.kernel == "flash":
        output = flash_attention(queries, key[0], value[0], layer.scheme, layer.attention, scaling)
    else:
        hidden = None
        if layer.sparse is not None:
            scale = q.shape[-1] ** -0.5 if scaling is None else scaling
            index: Any = module.layer_idx
            hidden = hidden_keys(index, queries, key[0], layer.scheme, layer.attention, scale, layer.sparse)
        output = eager_attention(queries, key[0], value[0], layer.scheme, layer.attention, scaling, hidden)
    return output.to(query.dtype).transpose(0, 1)[None].contiguous(), None


def _no_mask(
    attention_mask: torch.Tensor | None = None, allow_is_causal_skip: bool = True, **others: Any
) -> None:
    """transformers' mask interface: attention makes its own mask, so anything but causal is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise InputError("the DCA reference takes no padding; pass one sequence without masked tokens")
    if not allow_is_causal_skip:
        raise InputError("the DCA reference takes causal masks only, not packed or bidirectional ones")


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
