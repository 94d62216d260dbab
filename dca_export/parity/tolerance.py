"""What dca-parity demands of each kind of file, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dca_export.parity.agreement import Agreement

_MOST_ADDED = 10  # times a limit, to that limit


@dataclass(frozen=True)
class Tolerance:
    """Limits for an Agreement; None: not demanded."""

    reason: str
    """where the error comes from that is allowed here"""
    max_difference: float | None = None
    relative_difference: float | None = None
    """largest difference, in standard deviations of the reference's logits"""
    mean_kl: float | None = None
    max_kl: float | None = None
    """at any position: what a mean over hundreds of them hides"""
    top1: float | None = None
    """least share of positions with the same largest logit; one position may always differ, since a part
    can be so short that a single tie would break any share"""

    def failures(self, agreement: Agreement) -> list[str]:
        """What breaks the limits, a line each; empty: passed. NaN breaks every limit."""
        found = []
        if agreement.not_finite:
            found.append(f"{agreement.not_finite} logits are NaN or infinite")
        if self.max_difference is not None and not agreement.max_difference <= self.max_difference:
            found.append(
                f"largest difference {agreement.max_difference:.3g} (token {agreement.worst_token}) is above "
                f"{self.max_difference:g}"
            )
        limit = self.relative_difference
        if limit is not None and not agreement.relative_difference <= limit:
            found.append(
                f"largest difference {agreement.max_difference:.3g} (token {agreement.worst_token}) is "
                f"{agreement.relative_difference:.3g} standard deviations of the logits, above {limit:g}"
            )
        if self.max_kl is not None and not agreement.max_kl <= self.max_kl:
            found.append(f"largest KL {agreement.max_kl:.3g} is above {self.max_kl:g}")
        if self.mean_kl is not None and not agreement.mean_kl <= self.mean_kl:
            found.append(f"mean KL {agreement.mean_kl:.3g} is above {self.mean_kl:g}")
        if self.top1 is not None:
            allowed = max(1, math.floor((1 - self.top1) * agreement.tokens))
            if not agreement.top1_disagreements <= allowed:
                found.append(f"top-1 agreement {agreement.top1:.3%} is below {self.top1:.1%}")
        return found

    def beside(self, own: Agreement) -> Tolerance:
        """Limits against a reference that rounds, too: its `own` distance from the exact one is added.

        Mean KLs of small differences that know nothing of each other add up, and of two differences the
        largest at any position is at most their sum; the largest KL, a square of it, at most twice the sum of
        both, and another token comes first at most where one of the two has one. More than ten times the
        limit is not added: a reference so far off tells damage no longer. One that is not finite meets none.
        """

        def add(limit: float | None, more: float) -> float | None:
            if limit is None:
                return None
            return limit + (min(more, _MOST_ADDED * limit) if math.isfinite(more) else math.nan)

        return replace(
            self,
            reason=f"{self.reason}; the reference's own rounding, mean KL {own.mean_kl:.2g}",
            relative_difference=add(self.relative_difference, own.relative_difference),
            mean_kl=add(self.mean_kl, own.mean_kl),
            max_kl=add(self.max_kl, (self.max_kl or 0.0) + 2 * own.max_kl),
            top1=None if self.top1 is None else self.top1 - min(1 - own.top1, _MOST_ADDED * (1 - self.top1)),
        )

    def exemptions(self, agreement: Agreement) -> list[str]:
        """What was let pass though it is beyond a limit."""
        if self.top1 is None or agreement.top1 >= self.top1 or agreement.top1_disagreements > 1:
            return []
        share = f"top-1 agreement {agreement.top1:.3%} is below {self.top1:.1%}"
        return [f"{share}, exempt: it is a single one of {agreement.tokens} positions"]

    def __str__(self) -> str:
        limits = {
            "every difference ≤ {:g}": self.max_difference,
            "every difference ≤ {:g} σ": self.relative_difference,
            "mean KL ≤ {:g}": self.mean_kl,
            "every KL ≤ {:g}": self.max_kl,
            "top-1 ≥ {:.1%}": self.top1,
        }
        stated = ", ".join(text.format(limit) for text, limit in limits.items() if limit is not None)
        return f"{stated} ({self.reason})"


# Clean runs on a CPU, the largest difference in standard deviations σ of the logits and the largest KL of
# all positions, fed in one call, in pieces and one by one. Random models: Llama, Qwen 3, Phi 3, Qwen 2 MoE
# and Mixtral of transformers and three of Llama's shape, weights in f32, f16 and bf16, 120 tokens and seven
# chunk borders, one of them with three texts. SmolLM2: F16, 160 tokens.
#   cache   random models     SmolLM2
#   f32     4.3e-5  6.8e-10   2.1e-4  1.9e-9
#   f16     0.031   2.4e-4    0.0065  3.7e-6
#   bf16    0.26    8.4e-3    0.11    5.5e-4
#   q8      0.50    7.6e-2
#   q4      3.0     0.52 (two models of Llama's shape with heads of 32, 200 tokens; mean KL 0.10, top-1 46 %)
# Damaged runs of the random models with a cache in f32: a window two tokens short 1.4 σ and 0.55 at least, a
# row of the rotation wrong 1.1 σ and 0.18, a column 0.05 σ off 0.059 σ; the window in SmolLM2 over 512
# tokens 0.028 σ and 4.6e-5, which is no more than what caches of fewer bits do. So the pass with a cache in
# f32 is what tells damage: its limits are ten times the clean σ and a fourteenth of that window's, and 150
# times the clean KL. With other caches they are three times the clean runs'.
_EXACT = Tolerance(
    "f32 cache: only the order of sums differs", relative_difference=2e-3, mean_kl=3e-8, max_kl=3e-7
)
# Clean runs of Llama and Qwen 3 in Q8_0, 120 tokens: 2.0e-3 σ, KL 1.3e-6, mean KL 1.0e-7; five to ten times
# that.
_QUANTISED = Tolerance(
    "quantised weights, activations in blocks of 16 bits",
    relative_difference=1e-2,
    mean_kl=1e-6,
    max_kl=1e-5,
)
_CACHES = {
    "f16": Tolerance(
        "11 bits of keys and values", relative_difference=0.1, mean_kl=3e-5, max_kl=8e-4, top1=0.95
    ),
    "bf16": Tolerance(
        "8 bits of keys and values", relative_difference=0.8, mean_kl=1e-3, max_kl=2.5e-2, top1=0.92
    ),
    "q8": Tolerance(
        "8 bits of keys and values", relative_difference=1.5, mean_kl=8e-3, max_kl=0.25, top1=0.8
    ),
    "q4": Tolerance("4 bits of keys and values", relative_difference=9, mean_kl=0.3, max_kl=1.6, top1=0.35),
}
# A router's tie that the cache's rounding turns sends a token to another expert: one of six clean runs of
# models with experts did so, and gave 1.6 σ and KL 0.7 at a position, a mean of 0.017 and 4 of 120 other
# first places.
_EXPERTS = Tolerance(
    "a rounded cache may send a token to another expert",
    mean_kl=0.05,
    top1=0.9,
)
# Clean runs on an H100 of 2026-11-25 (tests/parity/test_damage_gpu.py): Llama, Qwen 3 and Phi 3, two seeds,
# 120 tokens, the largest σ, KL and mean KL, and other first places. Products are rounded to the weights'
# 16-bit type, quantised ones to f16.
#   weights     cache  σ      KL      mean KL
#   f16, q8_0   f16    0.066  1.1e-3  3.1e-5   1 of 120
#   f16, q8_0   bf16   0.27   1.4e-2  3.9e-4   4
#   f16, q8_0   q8     0.46   0.11    3.9e-3   8
#   bf16        f16    0.46   0.16    2.1e-3   3
#   bf16        bf16   0.42   0.12    2.0e-3   4
#   bf16        q8     0.86   0.50    6.5e-3   8
# Damage in f16 over f16 is at least 0.61 σ, KL 0.060, mean KL 3.3e-3 (a column half a σ off; a window two
# tokens short 1.4 σ, a row of the rotation 0.68 σ). The limits are three times the clean runs': with bf16
# weights only large damage shows, which is what f16 files are for. In q4 what four bits lose outweighs the
# products: the limits are the CPU's, with bf16 weights those of their products added.
_CUDA = {
    "f16": {
        "f16": Tolerance(
            "16-bit matrix products", relative_difference=0.2, mean_kl=1e-4, max_kl=3.2e-3, top1=0.95
        ),
        "bf16": Tolerance(
            "8 bits of keys and values", relative_difference=0.8, mean_kl=1.2e-3, max_kl=4.5e-2, top1=0.92
        ),
        "q8": Tolerance(
            "8 bits of keys and values", relative_difference=1.5, mean_kl=1.2e-2, max_kl=0.33, top1=0.8
        ),
        "q4": _CACHES["q4"],
    },
    "bf16": {
        "f16": Tolerance(
            "matrix products of 8 bits", relative_difference=1.4, mean_kl=6.5e-3, max_kl=0.5, top1=0.92
        ),
        "bf16": Tolerance(
            "matrix products of 8 bits", relative_difference=1.4, mean_kl=6.5e-3, max_kl=0.5, top1=0.92
        ),
        "q8": Tolerance(
            "matrix products of 8 bits", relative_difference=2.6, mean_kl=2e-2, max_kl=1.5, top1=0.8
        ),
        "q4": Tolerance(
            "4 bits of keys and values", relative_difference=10.4, mean_kl=0.31, max_kl=2.6, top1=0.35
        ),
    },
}


@dataclass(frozen=True)
class _Quantisation:
    """What quantising the weights may cost where the file is held against the original checkpoint."""

    relative_difference: float
    mean_kl: float
    top1: float


# Small models suffer most. SmolLM2-135M over 200 tokens: q8_0 0.25 σ, mean KL 0.0015, largest KL 0.017,
# top-1 97.5 %; q4_0 4.6 σ, 0.36, 1.95, 68.5 %. Earlier runs: mean KL 0.10 in q5_0, 0.14 in q5_1, about 4
# times as much for each bit less. The limits are three to four times that; those of other types lie between
# by their bits. f16 and bf16 of weights in f32: three times what four random models lost over 120 tokens
# (0.026 σ, mean KL 1.9e-5, top-1 98.3 %; 0.28 σ, 1.4e-3, 96.7 %). Random models are sharper than trained
# ones: in q8_0 they lose up to 1.4 σ and 0.014, beyond the limits here. Whatever the type, a file that picks
# another token in more than 35 of 100 places is not the model.
_FOUR_BITS = _Quantisation(14, 1.2, 0.65)
_UNPACKED = ("f32", "f16", "bf16")
_EXPORT = {
    "f16": _Quantisation(0.1, 6e-5, 0.95),
    "bf16": _Quantisation(1, 4e-3, 0.9),
    "q8_0": _Quantisation(1, 5e-3, 0.95),
    "q6_k": _Quantisation(4, 1e-1, 0.85),
    "q5_k": _Quantisation(8, 4e-1, 0.75),
    "q5_1": _Quantisation(8, 4e-1, 0.75),
    "q5_0": _Quantisation(8, 4e-1, 0.75),
    "q4_k": _FOUR_BITS,
    "q4_1": _FOUR_BITS,
    "q4_0": _FOUR_BITS,
    "iq4_nl": _FOUR_BITS,
    "q3_k": _Quantisation(20, 3.0, 0.65),
    "q2_k": _Quantisation(25, 6.0, 0.65),
}
_MOST_KL = 30  # the largest KL of a position, as a multiple of the mean's limit: measured 5 to 12 of the mean


def tolerance_for(weights: str, device: str, cache_type: str, experts: bool = False) -> Tolerance:
    """What a runtime must reach against the file's own weights.

    `weights` is the type of most of them ("q8_0"), `device` "cpu" or "cuda…"; `experts`: the model has some.
    """
    gpu = device.startswith("cuda")
    if cache_type == "f32" and not gpu:
        return _EXACT if weights in _UNPACKED else _QUANTISED
    if experts:
        return _EXPERTS
    if not gpu:
        return _CACHES[cache_type]
    return _CUDA["bf16" if weights == "bf16" else "f16"]["f16" if cache_type == "f32" else cache_type]


def export_tolerance(weights: str, device: str, cache_type: str, rounded: bool) -> Tolerance:
    """What a file must reach against the checkpoint that it was exported from.

    `rounded`: the checkpoint has weights that are no values of the type `weights`.
    """
    if weights == "f32" or not rounded:
        return tolerance_for(weights, device, cache_type)
    limit = _EXPORT.get(weights, _EXPORT["q2_k"])
    return Tolerance(
        f"weights rounded to {weights} by the export",
        relative_difference=limit.relative_difference,
        mean_kl=limit.mean_kl,
        max_kl=_MOST_KL * limit.mean_kl,
        top1=limit.top1,
    )
