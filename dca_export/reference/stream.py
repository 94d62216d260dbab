"""Logits of the reference for a whole sequence, a block of tokens at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from dca_export.reference.attention import Attention
from dca_export.reference.borders import Border
from dca_export.reference.hf import Kernel, patch
from dca_export.reference.sparse import BLOCK, SparsePrefill
from dca_export.reference.stated import StatedPrefill

if TYPE_CHECKING:
    from dca_export.scheme import Scheme

BLOCK_VALUES = 1 << 24  # logits held at once: 64 MiB in float32
# Families whose GGUF files say which layers have a window, and whose windows the runtime keeps.
FAMILIES_OF_WINDOWS = ("gemma2", "gemma3_text", "gpt_oss", "olmo3", "cohere2")
LONGEST_BLOCK = 512  # tokens; longer ones are not faster


def stream_logits(
    model: PreTrainedModel,
    ids: Sequence[int],
    scheme: Scheme | None,
    attention: Attention | Border = "dca",
    kernel: Kernel = "eager",
    sparse: SparsePrefill | StatedPrefill | None = None,
    rope: str | None = None,
) -> Iterator[np.ndarray]:
    """Float32 (rows, n_vocab) blocks, in order: row i of all of them together predicts ids[i + 1].

    The model is patched meanwhile, sliding windows ignored where its family's files do not state them, and
    given back when the iterator ends or is closed. Frequencies that depend on the length are those for c, or
    where there are no chunks len(ids). `sparse`, `rope`: as patch takes them; with the first a block of
    queries is never cut.
    """
    rows = max(1, min(LONGEST_BLOCK, BLOCK_VALUES // model.config.get_text_config().vocab_size))
    if sparse is not None:
        rows = max(rows // BLOCK, 1) * BLOCK
    tokens = torch.tensor([list(ids)], device=model.device)
    length = len(ids) if attention == "plain" or isinstance(attention, Border) else None
    cache = DynamicCache()
    ignore = model.config.get_text_config().model_type not in FAMILIES_OF_WINDOWS
    with patch(
        model,
        scheme,
        attention,
        kernel,
        ignore_sliding_window=ignore,
        rope_length=length,
        rope=rope,
        sparse=sparse,
    ):
        for block in tokens.split(rows, dim=1):
            with torch.inference_mode():
                output = model(block, past_key_values=cache, use_cache=True)
            yield output.logits[0].float().cpu().numpy()
