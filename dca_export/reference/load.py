"""Loads the model that the reference runs: an original checkpoint, or a GGUF file's own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dca_export.checkpoint.quantized.table import dequantised, find_quantised
from dca_export.checkpoint.tensors import SourceTensor, open_checkpoint
from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile, is_gguf
from dca_export.reference.gguf.weights import load_gguf


def load_reference(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal model of transformers with its weights in `dtype`, on the CPU, ready for inference.

    `path` is a Hugging Face directory (nothing is fetched, no code of the checkpoint is run) or a GGUF
    file, whose tensors are dequantised. Raises InputError if it is neither or weights are missing.
    """
    path = Path(path)
    if path.is_dir():
        model = _load_directory(path, dtype)
    elif not path.exists():
        raise InputError(f"{path}: no such file or directory")
    elif not is_gguf(path):
        raise InputError(f"{path}: expected a Hugging Face directory or a GGUF file")
    else:
        model = load_gguf(GgufFile(path), dtype)
    model.set_experts_implementation("eager")  # the plain loop; grouped products take no float64
    return model.requires_grad_(False).eval()


def _load_dequantised(path: Path, dtype: torch.dtype) -> Any:
    """A model whose weights were quantised elsewhere, as those f32 values; None if they were not.

    transformers reads such weights only where each quantiser's own library is installed, some of them only
    on GPUs; those libraries are what the tests of checkpoint.quantized compare its values with.
    """
    if not (path / "config.json").is_file() or not find_quantised(path):
        return None
    checkpoint = dequantised(open_checkpoint(path))
    state = {name: _values(tensor).to(dtype) for name, tensor in checkpoint.tensors.items()}
    config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    config.quantization_config = None
    del config.quantization_config
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)


def _values(tensor: SourceTensor) -> torch.Tensor:
    stored = torch.from_numpy(np.array(tensor.read(0, tensor.rows))).reshape(tensor.shape)
    return stored.view(torch.bfloat16) if tensor.dtype == "BF16" else stored


def _load_directory(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: has no config.json, so it is not a Hugging Face model directory")
    loaded: Any
    try:
        loaded = _load_dequantised(path, dtype) or AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises a great many kinds for a bad directory
        raise InputError(f"{path}: transformers cannot load it: {error}") from error
    model, report = loaded
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            first = sorted(map(str, report[problem]))[0]
            raise InputError(f"{path}: loading it gives {problem.replace('_', ' ')}, first {first}")
    return model
