"""vLLM's rotary embeddings for models with a scheme: keys turned at P_k = position mod s, queries not.

vLLM instantiates the classes made here in place of its own, by name. Where the model has no scheme, the
object becomes one of vLLM's own class before it is initialised.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.custom_op import CustomOp, op_registry_oot
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.rotary_embedding import get_rope

from dca_vllm.checks import check_engine
from dca_vllm.current import current_scheme
from dca_vllm.rotation import Rotation, rotate, table_of
from dca_vllm.scheme import Scheme

# Those that get_rope makes of the kinds of RoPE that models of checks.ARCHITECTURES have.
CLASSES = (
    "RotaryEmbedding",
    "LinearScalingRotaryEmbedding",
    "NTKScalingRotaryEmbedding",
    "DynamicNTKScalingRotaryEmbedding",
    "DynamicNTKAlphaRotaryEmbedding",
    "Llama3RotaryEmbedding",
    "YaRNScalingRotaryEmbedding",
)
DUAL_CHUNK = "DualChunkRotaryEmbedding"  # for Qwen's classes, where config.json states a scheme

# Every rotary embedding that was made in this process: get_rope keeps them for good and gives the same one to
# each layer, and to the next model that asks for the same frequencies.
_made: list[tuple[Scheme | None, Any]] = []


def current_rotation() -> Rotation:
    """What the layers of the model being built rotate with. Raises ValueError unless it is one embedding,
    made for its scheme."""
    scheme = current_scheme()
    if not _made:
        raise ValueError(
            "dca-vllm: the model's rotary embedding is of no class it can take over: " + ", ".join(CLASSES)
        )
    if any(each != scheme for each, _ in _made):
        raise ValueError(
            "dca-vllm: this process has built a model with another scheme or none before, and vLLM reuses "
            "its rotary embedding; run each model in a process of its own"
        )
    if len(_made) > 1:
        raise ValueError(
            f"dca-vllm: the model has {len(_made)} rotary embeddings, Dual Chunk Attention takes one"
        )
    rotary = _made[0][1]
    return Rotation(rotary.cos_sin_cache, rotary.is_neox_style)


class _KeysOnly:
    """Before one of vLLM's classes in the order of methods: its frequencies, our forward."""

    vllm_class: type[Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        scheme = current_scheme()
        _made.append((scheme, self))
        if scheme is None:
            object.__setattr__(self, "__class__", self.vllm_class)
            self.__init__(*arguments, **options)  # type: ignore[misc]
            return
        check_engine(get_current_vllm_config())
        super().__init__(*arguments, **options)
        self.chunk_size = scheme.chunk_size
        row = self._compute_cos_sin_cache()[1]  # type: ignore[attr-defined]
        self.cos_sin_cache = table_of(row, scheme.pretraining_length)

    def forward_native(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query (tokens, heads · head_size) as it is, key (tokens, kv_heads · head_size) at P_k."""
        if key is None:
            return query, None
        rows = self.cos_sin_cache[positions.flatten() % self.chunk_size]
        heads = key.view(rows.shape[0], -1, self.head_size)  # type: ignore[attr-defined]
        return query, rotate(heads, rows, self.is_neox_style).view(key.shape)  # type: ignore[attr-defined]

    # Which of these runs depends on the platform and on compilation.
    forward_cuda = forward_hip = forward_xpu = forward_cpu = forward_tpu = forward_oot = forward_native


class _ByConfig(CustomOp):
    """In place of Qwen's dual-chunk embedding, which knows no scaling: what the config's RoPE says."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        **scheme: int,
    ) -> None:
        CustomOp.__init__(self)  # not the original's: it makes tables of its own, on a GPU
        config = get_current_vllm_config().model_config.hf_text_config
        parameters = getattr(config, "rope_parameters", None) or {"rope_theta": base}
        self.rotary = get_rope(head_size, max_position_embeddings, is_neox_style, dict(parameters), dtype)

    def forward_native(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.rotary(positions, query, key)

    forward_cuda = forward_hip = forward_xpu = forward_cpu = forward_tpu = forward_oot = forward_native


def take_over() -> None:
    """Registers the classes in place of vLLM's; harmless when called again."""
    for name in CLASSES:
        original = getattr(rotary_embedding, name)
        _register(original, type(f"Dca{name}", (_KeysOnly, original), {"vllm_class": original}))
    original = getattr(rotary_embedding, DUAL_CHUNK)
    _register(original, type(f"Dca{DUAL_CHUNK}", (_ByConfig, original), {}))


def _register(original: type[Any], replacement: type[Any]) -> None:
    if original.__name__ in op_registry_oot:
        return
    CustomOp.register_oot(replacement, name=original.__name__)
    replacement.name = original.name  # what --compilation-config's custom_ops knows it by
