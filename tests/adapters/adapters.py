"""Writes small adapters: PEFT's directories and llama.cpp's GGUF files, by their formats' description."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_hf import write_safetensors

RANDOM = np.random.default_rng(8)


def factors(rows: int, columns: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """A (rank, columns) and B (rows, rank)."""
    return (
        RANDOM.standard_normal((rank, columns)).astype(np.float32),
        RANDOM.standard_normal((rows, rank)).astype(np.float32),
    )


def write_peft(directory: Path, tensors: dict[str, np.ndarray], **config: Any) -> Path:
    """A PEFT directory; names without "base_model.model."."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = {f"base_model.model.{name}": ("F32", values) for name, values in tensors.items()}
    write_safetensors(directory / "adapter_model.safetensors", stored)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base"} | config
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def pair(module: str, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def write_gguf_lora(
    path: Path,
    tensors: dict[str, np.ndarray],
    alpha: float = 8.0,
    architecture: str = "llama",
    **entries: Any,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in entries.items():
        writer.add_array(key.replace("__", "."), value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
