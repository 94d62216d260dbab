"""Another RoPE scaling in place of a model's own: position interpolation, NTK-aware, YaRN, dynamic NTK.

The frequencies are computed here from the papers' formulas, in float64; a model's own scaling is left out.
"""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel

from dca_export.errors import InputError

KINDS = ("linear", "ntk", "yarn", "dynamic")

# Of YaRN (Peng et al. 2024, arXiv 2309.00071): frequencies that turn more often than this in the trained
# context are kept, those that turn less often than that are interpolated; for Llama models.
_YARN_FAST, _YARN_SLOW = 32.0, 1.0


def override(model: PreTrainedModel, rope: str, length: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (float64) and attention factor of "KIND:FACTOR" for sequences of `length` tokens.

    linear (Chen et al. 2023): frequencies divided by the factor. ntk (bloc97, 2023): the base is multiplied
    by factor^(d / (d − 2)). dynamic (emozilla, 2023): ntk beyond the trained context L only, with the factor
    factor · length / L − (factor − 1). yarn: in parts. Raises InputError.
    """
    kind, _, text = rope.partition(":")
    factor = float(text)
    config = model.config.get_text_config(decoder=True)
    parameters = config.rope_parameters
    base, trained = parameters.get("rope_theta"), config.max_position_embeddings
    if kind not in KINDS or base is None or not factor >= 1:
        raise InputError(f"rope is {rope!r}: expected one of {', '.join(KINDS)} and a factor of at least 1")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    if kind == "dynamic":
        factor = max(1.0, factor * length / trained - (factor - 1))
    if kind in ("ntk", "dynamic"):
        if dim <= 2:
            raise InputError(f"NTK-aware RoPE needs a rotary dimension above 2, this model has {dim}")
        base = base * factor ** (dim / (dim - 2))
    pairs = torch.arange(0, dim, 2, dtype=torch.float64, device=model.device)
    frequencies = base ** (-pairs / dim)
    if kind == "linear":
        return frequencies / factor, 1.0
    if kind == "yarn":
        return _yarn(frequencies, base, dim, factor, trained), 0.1 * math.log(factor) + 1
    return frequencies, 1.0


def _yarn(frequencies: torch.Tensor, base: float, dim: int, factor: float, trained: int) -> torch.Tensor:
    """Interpolated where a pair turns less than once in the trained context, kept where it turns often."""

    def pair(turns: float) -> float:
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair(_YARN_FAST)), 0)
    high = min(math.ceil(pair(_YARN_SLOW)), dim - 1)
    place = torch.arange(len(frequencies), dtype=torch.float64, device=frequencies.device)
    share = ((place - low) / max(high - low, 0.001)).clamp(0, 1)
    return share * frequencies / factor + (1 - share) * frequencies
