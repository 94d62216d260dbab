"""Writes a small transformers model as a GGUF file, with the names that the package gguf maps."""

import re
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "granitemoe": gguf.MODEL_ARCH.GRANITE_MOE,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "internlm3": gguf.MODEL_ARCH.LLAMA,
    "ministral": gguf.MODEL_ARCH.LLAMA,
}
# Families whose q and k llama.cpp's converter reorders.
INTERLEAVED = ("llama", "mixtral", "smollm3", "granite", "granitemoe", "internlm3", "ministral")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe")


def gguf_tensors(model) -> dict[str, np.ndarray]:
    """The model's parameters as float32 under GGUF's names, as llama.cpp's converter writes them: q and k of
    some families in interleaved order, Gemma's norms plus 1, fused experts as gate, up and down."""
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    tied = getattr(config, "tie_word_embeddings", False)
    for name, parameter in model.named_parameters():
        if tied and name == "lm_head.weight":
            continue
        values = parameter.detach().float().numpy()
        block = f"blk.{name.split('.')[2]}." if name.startswith("model.layers.") else ""
        # The name map knows transformers 4, which did not stack experts and named their router otherwise.
        if config.model_type == "gpt_oss" and ".mlp." in name:
            tensors |= {
                block + key: part for key, part in gpt_oss_experts(name.split(".mlp.")[1], values).items()
            }
        elif match := re.fullmatch(r".*self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight", name):
            heads = tensors.get(f"{block}attn_{match[1]}_norm.weight", np.empty((0, len(values)), np.float32))
            tensors[f"{block}attn_{match[1]}_norm.weight"] = np.concatenate([heads, values[None]])
        elif name.endswith("block_sparse_moe.router.weight"):
            tensors[block + "ffn_gate_inp.weight"] = values
        elif name.endswith("experts.gate_up_proj"):
            half = values.shape[1] // 2
            tensors[block + "ffn_gate_exps.weight"] = np.ascontiguousarray(values[:, :half])
            tensors[block + "ffn_up_exps.weight"] = np.ascontiguousarray(values[:, half:])
        elif name.endswith("experts.down_proj"):
            tensors[block + "ffn_down_exps.weight"] = values
        elif name.endswith("shared_expert_gate.weight"):
            tensors[block + "ffn_gate_inp_shexp.weight"] = values[0]
        elif name.endswith("mlp.gate.weight"):
            tensors[block + "ffn_gate_inp.weight"] = values
        else:
            if config.model_type in INTERLEAVED and (".q_proj." in name or ".k_proj." in name):
                values = interleaved(values, head_dim(config))
            if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
                values = values + np.float32(1)
            found = names.get_name(name, (".weight", ".bias"))
            assert found is not None, name
            if found.rpartition(".")[2] not in ("weight", "bias"):
                found += ".weight"  # a parameter that is no module's weight
            tensors[found] = values
    return tensors


def gpt_oss_experts(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """What a parameter of gpt-oss's experts becomes: gates and ups alternate in its columns."""
    if name.startswith("router"):
        return {f"ffn_gate_inp.{name.split('.')[1]}": values}
    kind = "bias" if name.endswith("_bias") else "weight"
    rows = values if kind == "bias" else values.swapaxes(1, 2)
    if "down_proj" in name:
        return {f"ffn_down_exps.{kind}": np.ascontiguousarray(rows)}
    halves = {"gate": rows[:, 0::2], "up": rows[:, 1::2]}
    return {f"ffn_{half}_exps.{kind}": np.ascontiguousarray(part) for half, part in halves.items()}


def head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def interleaved(rows: np.ndarray, size: int) -> np.ndarray:
    """Row p and row p + head_dim / 2 of each head become rows 2p and 2p + 1, written out row by row."""
    result = np.empty_like(rows)
    half = size // 2
    for start in range(0, len(rows), size):
        for p in range(half):
            result[start + 2 * p] = rows[start + p]
            result[start + 2 * p + 1] = rows[start + half + p]
    return result


def epsilon(config) -> dict[str, float]:
    if hasattr(config, "layer_norm_eps"):
        return {"attention.layer_norm_epsilon": config.layer_norm_eps}
    return {"attention.layer_norm_rms_epsilon": config.rms_norm_eps}


def write_gguf(
    path: Path,
    model,
    keys: dict[str, object] | None = None,
    extra: dict[str, np.ndarray | None] | None = None,
    dtype: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """`keys` are added under the architecture's prefix; `extra` tensors are added, or left out where None."""
    config = model.config
    arch = gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]]
    values: dict[str, object] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        **epsilon(config),
        "rope.freq_base": config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"],
        "attention.key_length": head_dim(config),
    }
    if config.model_type in MIXTURES:
        values |= {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}
    if config.model_type in ("qwen2_moe", "qwen3_moe"):
        values["expert_feed_forward_length"] = config.moe_intermediate_size
    if config.model_type == "gpt_oss":
        values["expert_feed_forward_length"] = config.intermediate_size
    if config.model_type == "qwen2_moe":
        values["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**values, **(keys or {})}.items():
        name = f"{arch}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
    for name, tensor in {**gguf_tensors(model), **(extra or {})}.items():
        if tensor is None:
            continue
        kind = dtype if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
