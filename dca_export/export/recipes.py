"""Which type each tensor of an export gets.

The names and the choices are those users know from llama.cpp. Vectors, norms and routers stay F32. The
output matrix gets Q6_K. The mixed recipes (_S, _M, _L) spend more bits on the tensors that suffer most,
attn_v and ffn_down, in some layers or all. Where a row is no multiple of a type's blocks, another stands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from dca_export.model.rules import Dimensions

T, F = GGMLQuantizationType, LlamaFileType

V, K, OUT, DOWN = "attn_v", "attn_k", "attn_output", "ffn_down"
_ROLE = re.compile(r"blk\.(\d+)\.(.+?)(_exps|_shexp)?\.weight")
# Phi-3's fused q, k and v count as v.
_SAME_ROLE = {"attn_qkv": V}


@dataclass(frozen=True)
class Model:
    """What the choice depends on of a model: its GGUF architecture, its sizes, whether embeddings are tied.

    `tied`: there is no separate output matrix.
    """

    architecture: str
    dimensions: Dimensions
    tied: bool

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp counts it among the 70B models: 80 layers, and in Llama's case grouped heads.

        Other architectures have no model of that size there. Qwen1.5-72B counts though its heads are not
        grouped.
        """
        grouped = self.dimensions.heads != self.dimensions.kv_heads
        large = self.architecture == "qwen2" or (self.architecture == "llama" and grouped)
        return large and self.dimensions.layers == 80


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in a model: its role (what its name says it does) and its layer."""

    role: str
    layer: int
    model: Model

    @property
    def dimensions(self) -> Dimensions:
        return self.model.dimensions


Condition = Callable[[Place], bool]


def first_eighth(place: Place) -> bool:
    return place.layer < place.dimensions.layers // 8


def first_sixteenth(place: Place) -> bool:
    return place.layer < place.dimensions.layers // 16


def first_layers(count: int) -> Condition:
    return lambda place: place.layer < count


def more_bits(place: Place) -> bool:
    """The first and last eighth of the layers and every third between: where errors cost most."""
    layers = place.dimensions.layers
    third = (place.layer - layers // 8) % 3 == 2
    return first_eighth(place) or place.layer >= 7 * layers // 8 or third


def wide_groups(place: Place) -> bool:
    """Four or more query heads share a key head, so that v is small and precious."""
    return place.dimensions.heads // place.dimensions.kv_heads >= 4


def eight_experts(place: Place) -> bool:
    return place.dimensions.experts == 8


def not_eight_experts(place: Place) -> bool:
    return not eight_experts(place)


def always(place: Place) -> bool:
    return True


@dataclass(frozen=True)
class Override:
    """Another type for matrices of one role, where `applies` says so."""

    role: str
    type: GGMLQuantizationType
    applies: Condition = always


@dataclass(frozen=True)
class Recipe:
    """An --outtype: the type of matrices in general, of the output matrix, and of some roles.

    A tied embedding is the output matrix too and gets its type. The first override that applies counts.
    """

    name: str
    file_type: LlamaFileType
    matrix: GGMLQuantizationType
    output: GGMLQuantizationType
    overrides: tuple[Override, ...] = ()
    experts: GGMLQuantizationType | None = None
    """of a mixture's experts (in a dense model of every layer's matrices), where it is another"""
    weighted: tuple[Override, ...] | None = None
    """instead of `overrides` where an imatrix says what errors count"""

    def heeding(self, imatrix: bool) -> Recipe:
        """The recipe for an export with an imatrix, or without."""
        return replace(self, overrides=self.weighted) if imatrix and self.weighted is not None else self


# In a mixture of eight experts, attention is a small part of the file and used for every token.
_EIGHT = (Override(V, T.Q8_0, eight_experts), Override(K, T.Q8_0, eight_experts))
_EIGHT_OUT = (*_EIGHT, Override(OUT, T.Q5_K, eight_experts))


def _quantised(
    name: str,
    file_type: LlamaFileType,
    matrix: GGMLQuantizationType,
    *overrides: Override,
    weighted: tuple[Override, ...] | None = None,
) -> Recipe:
    output = T.Q8_0 if matrix == T.Q8_0 else T.Q6_K
    return Recipe(name, file_type, matrix, output, overrides, weighted=weighted)


# Four-bit tables: more bits for the first layers' ffn_down unless an imatrix tells what matters there.
_TABLES = (*_EIGHT_OUT, Override(V, T.Q5_K, wide_groups))
_TABLES_UNWEIGHTED = (*_TABLES, Override(DOWN, T.Q5_K, first_eighth))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", F.ALL_F32, T.F32, T.F32),
        Recipe("f16", F.MOSTLY_F16, T.F16, T.F16),
        Recipe("bf16", F.MOSTLY_BF16, T.BF16, T.BF16),
        _quantised("q8_0", F.MOSTLY_Q8_0, T.Q8_0),
        # An imatrix makes the first layers' ffn_down worth a minimum.
        _quantised(
            "q4_0", F.MOSTLY_Q4_0, T.Q4_0, *_EIGHT, weighted=(*_EIGHT, Override(DOWN, T.Q4_1, first_eighth))
        ),
        _quantised("q4_1", F.MOSTLY_Q4_1, T.Q4_1, *_EIGHT),
        _quantised(
            "q5_0", F.MOSTLY_Q5_0, T.Q5_0, *_EIGHT, weighted=(*_EIGHT, Override(DOWN, T.Q5_1, first_eighth))
        ),
        _quantised("q5_1", F.MOSTLY_Q5_1, T.Q5_1, *_EIGHT),
        _quantised(
            "q2_k",
            F.MOSTLY_Q2_K,
            T.Q2_K,
            *_EIGHT_OUT,
            Override(V, T.Q4_K, wide_groups),
            Override(V, T.Q3_K),
            Override(DOWN, T.Q3_K),
            Override(OUT, T.Q3_K),
        ),
        _quantised("q3_k_s", F.MOSTLY_Q3_K_S, T.Q3_K, *_EIGHT_OUT),
        _quantised(
            "q3_k_m",
            F.MOSTLY_Q3_K_M,
            T.Q3_K,
            *_EIGHT_OUT,
            Override(V, T.Q5_K, first_layers(2)),
            Override(V, T.Q4_K),
            Override(DOWN, T.Q5_K, first_sixteenth),
            Override(DOWN, T.Q4_K),
            Override(OUT, T.Q4_K),
        ),
        _quantised(
            "q3_k_l",
            F.MOSTLY_Q3_K_L,
            T.Q3_K,
            *_EIGHT,
            Override(V, T.Q5_K),
            Override(DOWN, T.Q5_K),
            Override(OUT, T.Q5_K, not_eight_experts),
        ),
        _quantised(
            "q4_k_s",
            F.MOSTLY_Q4_K_S,
            T.Q4_K,
            *_EIGHT_OUT,
            Override(V, T.Q5_K, first_layers(4)),
            Override(DOWN, T.Q5_K, first_eighth),
        ),
        _quantised(
            "q4_k_m",
            F.MOSTLY_Q4_K_M,
            T.Q4_K,
            *_EIGHT_OUT,
            Override(V, T.Q6_K, more_bits),
            Override(DOWN, T.Q6_K, more_bits),
        ),
        _quantised("q5_k_s", F.MOSTLY_Q5_K_S, T.Q5_K, *_EIGHT),
        _quantised(
            "q5_k_m",
            F.MOSTLY_Q5_K_M,
            T.Q5_K,
            *_EIGHT,
            Override(V, T.Q6_K, more_bits),
            Override(DOWN, T.Q6_K, more_bits),
        ),
        _quantised("q6_k", F.MOSTLY_Q6_K, T.Q6_K, *_EIGHT),
        _quantised("iq4_nl", F.MOSTLY_IQ4_NL, T.IQ4_NL, *_TABLES_UNWEIGHTED, weighted=_TABLES),
        _quantised("iq4_xs", F.MOSTLY_IQ4_XS, T.IQ4_XS, *_TABLES_UNWEIGHTED, weighted=_TABLES),
        Recipe("mxfp4", F.MOSTLY_MXFP4_MOE, T.Q8_0, T.Q8_0, experts=T.MXFP4),
    )
}

# What stores a mixture of MXFP4 experts and 16-bit matrices without a loss.
AS_MXFP4 = replace(RECIPES["bf16"], file_type=F.MOSTLY_MXFP4_MOE, experts=T.MXFP4)

# Where a row is no multiple of the block: the next type to try.
FALLBACKS = {
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
    T.IQ4_XS: T.IQ4_NL,
} | dict.fromkeys((T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.IQ4_NL, T.MXFP4), T.F16)


@dataclass(frozen=True)
class TypeChoice:
    """The type of a tensor, and the one it stands in for where that one's blocks do not fit."""

    type: GGMLQuantizationType
    instead_of: GGMLQuantizationType | None = None


def tensor_type(
    recipe: Recipe, model: Model, name: str, shape: tuple[int, ...], keep_f32: bool
) -> TypeChoice:
    """The type `recipe` gives to the GGUF tensor `name` of `model`."""
    if keep_f32 or len(shape) < 2 or name.endswith("_norm.weight"):
        return TypeChoice(T.F32)
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        wanted = recipe.output
    else:
        wanted = _wanted(recipe, model, name)
    chosen = wanted
    while shape[-1] % GGML_QUANT_SIZES[chosen][0]:
        chosen = FALLBACKS[chosen]
    return TypeChoice(chosen, wanted if chosen != wanted else None)


def _wanted(recipe: Recipe, model: Model, name: str) -> GGMLQuantizationType:
    found = _ROLE.fullmatch(name)
    if found is None:
        return recipe.matrix
    if recipe.experts is not None and (found[3] == "_exps" or not model.dimensions.experts):
        return recipe.experts
    layer, role = int(found[1]), found[2]
    place = Place(_SAME_ROLE.get(role, role), layer, model)
    for override in recipe.overrides:
        if override.role == place.role and override.applies(place):
            return _of_70b(override.type, place)
    return _of_70b(recipe.matrix, place)


def _of_70b(kind: GGMLQuantizationType, place: Place) -> GGMLQuantizationType:
    """In models of 70B v is small, each of its heads serving eight query heads, and matters much."""
    if place.role == V and place.model.is_70b and kind in (T.Q3_K, T.Q4_K):
        return T.Q5_K
    return kind
