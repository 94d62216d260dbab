"""From a GGUF file's tensors to a transformers model: which tensor is which parameter, and in what order."""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile, TensorInfo
from dca_export.reference.gguf.config import build_config
from dca_export.reference.gguf.families import Architecture, find_architecture
from dca_export.reference.gguf.keys import Keys

_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
# transformers' module in a layer -> the GGUF tensors of blk.N that it is made of, stacked row upon row.
_LAYER: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("attn_norm",),
    "post_attention_layernorm": ("ffn_norm",),
    "self_attn.q_proj": ("attn_q",),
    "self_attn.k_proj": ("attn_k",),
    "self_attn.v_proj": ("attn_v",),
    "self_attn.qkv_proj": ("attn_qkv",),
    "self_attn.q_norm": ("attn_q_norm",),
    "self_attn.k_norm": ("attn_k_norm",),
    "self_attn.o_proj": ("attn_output",),
    "mlp.gate_proj": ("ffn_gate",),
    "mlp.up_proj": ("ffn_up",),
    "mlp.gate_up_proj": ("ffn_up",),  # Phi-3: gate above up in one tensor
    "mlp.down_proj": ("ffn_down",),
    "mlp.gate": ("ffn_gate_inp",),
    "mlp.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
    "mlp.experts.down_proj": ("ffn_down_exps",),
    "mlp.shared_expert.gate_proj": ("ffn_gate_shexp",),
    "mlp.shared_expert.up_proj": ("ffn_up_shexp",),
    "mlp.shared_expert.down_proj": ("ffn_down_shexp",),
    "mlp.shared_expert_gate": ("ffn_gate_inp_shexp",),
}
_PARAMETER = re.compile(r"(?:model\.layers\.(?P<layer>\d+)\.)?(?P<module>.+?)(?P<suffix>\.weight|\.bias)?")
_ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


class Tensors:
    """The tensors of a file, dequantised by the package gguf."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._infos = {tensor.name: tensor for tensor in file.tensors}
        self._data = np.memmap(file.path, mode="r")
        self.unused = set(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def __getitem__(self, name: str) -> np.ndarray:
        """float32, slowest dimension first."""
        if name not in self._infos:
            raise InputError(f"{self.file.path}: tensor {name} is missing")
        self.unused.discard(name)
        return _dequantise(self._infos[name], self._data, self.file)


def _dequantise(info: TensorInfo, data: np.ndarray, file: GgufFile) -> np.ndarray:
    stored = data[info.start : info.start + info.nbytes]
    try:
        return gguf.quants.dequantize(stored, info.type).reshape(info.shape)
    except NotImplementedError:
        raise InputError(
            f"{file.path}: tensor {info.name} is of type {info.type.name}, which the package gguf "
            "cannot dequantise"
        ) from None


def load_gguf(file: GgufFile, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a GGUF file with its weights dequantised to `dtype`, one tensor at a time.

    Raises InputError if a tensor is missing, is left over, or has another shape than the metadata say.
    """
    keys, tensors = Keys(file), Tensors(file)
    architecture = find_architecture(keys)
    config = build_config(keys, architecture, tensors.__getitem__)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, parameter in list(model.named_parameters()):
        values = _parameter_values(name, tuple(parameter.shape), config, architecture, tensors)
        # copy: a view of the mapped file is read-only
        state = {name: torch.from_numpy(np.array(values)).to(dtype)}
        model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    tensors.unused -= _ROPE_TENSORS
    if tensors.unused:
        raise InputError(
            f"{file.path}: tensor {min(tensors.unused)} has no place in a {config.model_type} model"
        )
    _restore_rotary(model, tensors)
    return model


def _parameter_values(
    name: str, shape: tuple[int, ...], config: Any, architecture: Architecture, tensors: Tensors
) -> np.ndarray:
    match = _PARAMETER.fullmatch(name)
    assert match is not None
    layer, module, suffix = match["layer"], match["module"], match["suffix"] or ".weight"
    if layer is None:
        sources = [_OUTER[module] + suffix]
    else:
        if (assembled := _assembled(f"blk.{layer}.", module, tensors)) is not None:
            return assembled
        names = architecture.modules.get(module) or _LAYER[module]
        sources = [f"blk.{layer}.{each}{suffix}" for each in names]
    if suffix == ".bias" and not any(source in tensors for source in sources):
        return np.zeros(shape, np.float32)  # the class has a bias that this model lacks
    parts = [tensors[source] for source in sources]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)
    if values.size != np.prod(shape) or (values.shape != shape and values.ndim != 1):
        raise InputError(
            f"{tensors.file.path}: tensor {sources[0]} has shape {values.shape}, the metadata ask for {shape}"
        )
    values = values.reshape(shape)  # a vector may stand for a matrix of one row
    if architecture.shifted_norms and "norm" in module:
        values = values - np.float32(1)
    if architecture.interleaved and module in ("self_attn.q_proj", "self_attn.k_proj"):
        values = _to_halves(values, config.head_dim)
    return values


_HEAD_NORM = re.compile(r"self_attn\.(?P<which>[qk])_layernorm\.norms\.(?P<head>\d+)")


def _assembled(block: str, module: str, tensors: Tensors) -> np.ndarray | None:
    """Parameters that are no tensor of the file as it stands: gpt-oss's experts, whose gates and ups
    alternate and whose matrices are transposed, and StableLM's norms of single heads."""
    if match := _HEAD_NORM.fullmatch(module):
        return tensors[f"{block}attn_{match['which']}_norm.weight"][int(match["head"])]
    experts, biased = module.removeprefix("mlp.experts."), module.endswith("_bias")
    if f"{block}ffn_gate_exps.bias" not in tensors or experts == module:
        return None
    suffix = "bias" if biased else "weight"
    if experts.startswith("down_proj"):
        down = tensors[f"{block}ffn_down_exps.{suffix}"]
        return down if biased else down.swapaxes(1, 2)
    gate, up = (tensors[f"{block}ffn_{name}_exps.{suffix}"] for name in ("gate", "up"))
    both = np.stack((gate, up), axis=2).reshape(len(gate), -1, *gate.shape[2:])
    return both if biased else both.swapaxes(1, 2)


def _to_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows 2p and 2p + 1 of each head, a rotary pair, become rows p and p + head_dim / 2."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _restore_rotary(model: PreTrainedModel, tensors: Tensors) -> None:
    """Frequencies are no parameters: they are computed again off the meta device, and divided by the
    file's factors (Llama 3's scaling)."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if hasattr(module, "scalar_embed_scale"):  # Gemma's embedding; its scale is a buffer too
                module.embed_scale = torch.tensor(module.scalar_embed_scale)
            kinds = [f"{kind}_" for kind in getattr(module, "layer_types", ())]  # of layers that rotate apart
            if not any(hasattr(module, f"{kind}inv_freq") for kind in ["", *kinds]):
                continue
            rotary: Any = type(module)(config=model.config)
            if "rope_freqs.weight" in tensors:
                factors = torch.from_numpy(np.array(tensors["rope_freqs.weight"])).flatten()
                if len(factors) != len(rotary.inv_freq) or not bool((factors > 0).all()):
                    raise InputError(
                        f"{tensors.file.path}: tensor rope_freqs.weight must be {len(rotary.inv_freq)} "
                        "positive factors"
                    )
                rotary.inv_freq = rotary.inv_freq / factors
                rotary.original_inv_freq = rotary.inv_freq.clone()
            setattr(parent, name, rotary)
