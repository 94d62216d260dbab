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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from dca_export.errors import InputError
from dca_export.reference import sparse as pages
from dca_export.reference import stated as lines
from dca_export.reference.attention import Attention, Queries, check_attention, eager_attention
from dca_export.reference.border_attention import eager_border_attention, flash_border_attention, rotate
from dca_export.reference.borders import Border
from dca_export.reference.flash import flash_attention
from dca_export.reference.positions import key_positions, query_positions
from dca_export.reference.probe import columns_of, frequencies_for, probe, rotary_kinds
from dca_export.reference.refusals import (
    OfACopy,
    check_attention_in_use,
    check_positions,
    check_query,
    check_softmax,
    replace_forward,
    watch_calls,
)
from dca_export.reference.rope_override import override
from dca_export.reference.rotary import Rotary
from dca_export.reference.sparse import SparsePrefill
from dca_export.reference.stated import StatedPrefill

if TYPE_CHECKING:
    from dca_export.scheme import Scheme

Kernel = Literal["eager", "flash"]

# The name of our functions in transformers' registries of attention and mask implementations.
IMPLEMENTATION = "dca_reference"


def patch(
    model: PreTrainedModel,
    scheme: Scheme | None,
    attention: Attention | Border = "dca",
    kernel: Kernel = "eager",
    *,
    ignore_sliding_window: bool = False,
    rope_length: int | None = None,
    rope: str | None = None,
    sparse: SparsePrefill | StatedPrefill | None = None,
) -> Patch:
    """Changes `model` in place; undo with `.restore()` or use the result in a `with` statement.

    Prefill, decode and `generate` work with the model's DynamicCache, one sequence at a time. The cache
    holds keys rotated at P_k, so a cache made before the patch must not be used after it, or the reverse.
    `attention="plain"` needs no scheme and gives the model's own causal attention in bounded memory; a rule
    of borders.py runs in place of Dual Chunk Attention, over a cache of keys that are not rotated.

    Layers with a sliding window beside others that see everything keep it, and attend at their ordinary
    distances; DCA is for the others. A model of windows alone is refused. With `ignore_sliding_window` every
    layer of either sees every token. Frequencies that depend on the length (dynamic NTK, LongRoPE) are fixed
    to those for `rope_length` tokens: by default c, and the model's max_position_embeddings where there is no
    scheme. `rope` is another RoPE scaling in place of the model's, as rope_override.py reads it.
    `sparse`: prompts attend sparsely, or by stated budgets, in layers that see everything, with the eager
    kernel.

    Raises InputError if the model cannot be patched and ValueError for an attention or kernel unknown.
    """
    border = attention if isinstance(attention, Border) else None
    if isinstance(attention, str):
        check_attention(attention, scheme)
    if kernel not in ("eager", "flash"):
        raise ValueError(f"kernel is {kernel!r}, must be eager or flash")
    if sparse is not None and kernel != "eager":
        raise ValueError("sparse prefill is for the eager kernel")
    if model in _PATCHED:
        raise InputError(f"{type(model).__name__} is patched already; restore() the earlier patch first")
    if attention == "plain" or border is not None:
        scheme = None
    config = model.config.get_text_config(decoder=True)
    length = rope_length or (config.max_position_embeddings if scheme is None else scheme.pretraining_length)

    kinds = rotary_kinds(model)
    rotations, windows = probe(model, kinds)
    if all(windows.values()) and not ignore_sliding_window:
        longest = max(window for window in windows.values() if window)
        raise InputError(
            f"{type(model).__name__} attends within a sliding window of {longest} tokens, which DCA does not "
            "define; ignore_sliding_window=True lets every layer see every token"
        )
    rotaries = {}
    for each in kinds:
        frequencies, scale = frequencies_for(each, length) if rope is None else override(model, rope, length)
        rotaries[each.kind] = Rotary(frequencies, scale=scale)
    turning = rotaries if border is None else {kind: _unturned(each) for kind, each in rotaries.items()}
    fed = _Fed()
    with contextlib.ExitStack() as undo:
        for module in {each.module for each in kinds}:
            columns = {each.kind: columns_of(each) for each in kinds if each.module is module}
            replace_forward(module, _KeyRotation(turning, columns, scheme, WeakSet(windows), fed), undo)
        for layer, rotation in rotations.items():
            rotary = rotation and replace(rotaries[rotation.kind], layout=rotation.layout)
            window = None if ignore_sliding_window else windows[layer]
            _LAYERS[layer] = _Layer(scheme, attention, kernel, rotary, window, fed, sparse)
            undo.callback(_LAYERS.pop, layer, None)
        if ignore_sliding_window and any(windows.values()):
            if getattr(config, "layer_types", None) is not None:
                _set(config, "layer_types", ["full_attention"] * config.num_hidden_layers, undo)
            else:
                _set(config, "sliding_window", None, undo)
        undo.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation(IMPLEMENTATION)
        watch_calls(model, (scheme, length, rope, border is None), undo)
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


def _unturned(rotary: Rotary) -> Rotary:
    """Leaves everything as it is."""
    return Rotary(torch.zeros_like(rotary.inverse_frequencies))


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
    """A rotary module's forward: answers with P_k of the positions it is asked for; with frequencies of zero
    it turns nothing."""

    rotaries: dict[str | None, Rotary]
    columns: dict[str | None, torch.Tensor]
    scheme: Scheme | None
    layers: WeakSet[nn.Module]
    fed: _Fed

    def __call__(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        check_attention_in_use(self.layers, IMPLEMENTATION)
        self.fed.positions, self.fed.checked = position_ids, False
        rotary = self.rotaries[layer_type]
        angles = rotary.angles(key_positions(position_ids, self.scheme))[..., self.columns[layer_type]]
        return (angles.cos() * rotary.scale).to(x.dtype), (angles.sin() * rotary.scale).to(x.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> OfACopy:
        return OfACopy()


# The attention implementation.


@dataclass(frozen=True)
class _Layer:
    scheme: Scheme | None
    attention: Attention | Border
    kernel: Kernel
    rotary: Rotary | None
    """None: a layer that does not rotate"""
    window: int | None
    """tokens that it sees, the query's own included; None: all"""
    fed: _Fed
    sparse: SparsePrefill | StatedPrefill | None


_LAYERS: WeakKeyDictionary[nn.Module, _Layer] = WeakKeyDictionary()
_PATCHED: WeakSet[PreTrainedModel] = WeakSet()


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, heads, n, d) and a cache of m tokens → (1, n, heads, d)."""
    layer = _LAYERS.get(module)
    if layer is None:
        raise InputError("this model was not patched with the DCA reference itself; patch() it")
    n, m = query.shape[2], key.shape[2]
    check_query(query, attention_mask, others)
    end = m  # tokens so far
    if layer.fed.positions is not None and layer.window is not None:
        end = int(layer.fed.positions.max()) + 1  # its cache may hold the window alone
    elif layer.fed.positions is not None and not layer.fed.checked:
        check_positions(layer.fed.positions, n, m)
        layer.fed.checked = True
    indices = torch.arange(end - n, end, device=query.device)
    q, k, v = query[0], key[0], value[0]
    plain_softmax = layer.window is None and softcap is None and s_aux is None
    if layer.kernel == "flash" and plain_softmax:
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast the model's rotation leaves them in float32
        if isinstance(layer.attention, Border):
            rotated = rotate(q, k, layer.attention, layer.rotary)
            output = flash_border_attention(*rotated, v, layer.attention, scaling)
        else:
            queries = _turned_queries(q, indices, layer)
            output = flash_attention(queries, k, v, layer.scheme, layer.attention, scaling)
    else:
        q = q.to(torch.promote_types(q.dtype, torch.float32))  # the turned queries are not rounded again
        scheme, attention = layer.scheme, layer.attention
        if layer.window is not None:
            q, k = _at_own_positions(q, k, indices, layer)
            scheme, attention = None, "plain"
        if isinstance(attention, Border):
            check_softmax(softcap, s_aux)
            output = eager_border_attention(*rotate(q, k, attention, layer.rotary), v, attention, scaling)
        else:
            queries = Queries(q, q, q) if scheme is None else _turned_queries(q, indices, layer)
            passed_over = None
            if layer.sparse is not None and layer.window is None:
                scale = q.shape[-1] ** -0.5 if scaling is None else scaling
                index: Any = module.layer_idx
                passed_over = _passed_over(index, queries, k, attention, scale, layer)
            softmax: dict[str, Any] = {
                "window": layer.window,
                "cap": softcap,
                "sinks": s_aux,
                "passed_over": passed_over,
            }
            output = eager_attention(queries, k, v, scheme, attention, scaling, **softmax)
    return output.to(query.dtype).transpose(0, 1)[None].contiguous(), None


def _passed_over(
    index: int,
    queries: Queries,
    keys: torch.Tensor,
    attention: Attention,
    scale: float,
    layer: _Layer,
) -> torch.Tensor:
    """Which keys a layer's queries do not read though they come before, (heads, n, m)."""
    if not isinstance(layer.sparse, StatedPrefill):
        assert layer.sparse is not None
        return pages.hidden_keys(index, queries, keys, layer.scheme, attention, scale, layer.sparse)

    def advance(distance: int) -> torch.Tensor:
        if layer.rotary is None:
            return queries.intra
        steps = torch.full((queries.intra.shape[1],), distance, device=keys.device)
        return layer.rotary.advance(queries.intra, steps)

    return lines.hidden_keys(index, queries, keys, layer.scheme, attention, scale, layer.sparse, advance)


def _turned_queries(q: torch.Tensor, indices: torch.Tensor, layer: _Layer) -> Queries:
    """Queries that the model rotated at P_intra, at all three positions."""
    if layer.scheme is None or layer.rotary is None:
        return Queries(q, q, q)
    positions = query_positions(indices, layer.scheme)
    return Queries(q, *(layer.rotary.advance(q, each - positions.intra) for each in positions[1:]))


def _at_own_positions(
    q: torch.Tensor, k: torch.Tensor, indices: torch.Tensor, layer: _Layer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of a layer with a window, which stand at positions modulo s, at those themselves."""
    end = int(indices[-1]) + 1
    of_keys = torch.arange(end - k.shape[1], end, device=k.device)
    if isinstance(layer.attention, Border) and layer.rotary is not None:  # they are not turned at all
        return layer.rotary.rotate(q, indices), layer.rotary.rotate(k, of_keys)
    if layer.scheme is None or layer.rotary is None:
        return q, k
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    return (
        layer.rotary.advance(q, indices - key_positions(indices, layer.scheme)),
        layer.rotary.advance(k, of_keys - key_positions(of_keys, layer.scheme)),
    )


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
