"""Writes a small transformers model as a GGUF file, with the names that the package gguf maps."""

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
}


def gguf_tensors(model) -> dict[str, np.ndarray]:
    """The model's parameters as float32 under GGUF's names, q and k of llama in interleaved order."""
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().float().numpy()
        block = f"blk.{name.split('.')[2]}." if name.startswith("model.layers.") else ""
        # The name map knows transformers 4, which did not stack experts and named their router otherwise.
        if name.endswith("mlp.experts.gate_up_proj"):
            half = values.shape[1] // 2
            tensors[block + "ffn_gate_exps.weight"] = np.ascontiguousarray(values[:, :half])
            tensors[block + "ffn_up_exps.weight"] = np.ascontiguousarray(values[:, half:])
        elif name.endswith("mlp.experts.down_proj"):
            tensors[block + "ffn_down_exps.weight"] = values
        elif name.endswith("shared_expert_gate.weight"):
            tensors[block + "ffn_gate_inp_shexp.weight"] = values[0]
        elif name.endswith("mlp.gate.weight"):
            tensors[block + "ffn_gate_inp.weight"] = values
        else:
            if config.model_type in ("llama", "mixtral") and (".q_proj." in name or ".k_proj." in name):
                values = interleaved(values, head_dim(config))
            found = names.get_name(name, (".weight", ".bias"))
            assert found is not None, name
            tensors[found] = values
    return tensors


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
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "attention.key_length": head_dim(config),
    }
    if config.model_type in ("mixtral", "qwen2_moe", "qwen3_moe"):
        values |= {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}
    if config.model_type in ("qwen2_moe", "qwen3_moe"):
        values["expert_feed_forward_length"] = config.moe_intermediate_size
    if config.model_type == "qwen2_moe":
        values["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**values, **(keys or {})}.items():
        name = f"{arch}.{key}"
        if isinstance(value, str):
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
