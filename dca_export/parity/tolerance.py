"""What dca-parity demands of each kind of file, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dca_export.parity.agreement import Agreement


@dataclass(frozen=True)
class Tolerance:
    """Limits for an Agreement; None: not demanded."""

    reason: str
    """where the error comes from that is allowed here"""
    max_difference: float | None = None
    mean_kl: float | None = None
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
        if self.mean_kl is not None and not agreement.mean_kl <= self.mean_kl:
            found.append(f"mean KL {agreement.mean_kl:.3g} is above {self.mean_kl:g}")
        if self.top1 is not None:
            allowed = max(1, math.floor((1 - self.top1) * agreement.tokens))
            if not agreement.top1_disagreements <= allowed:
                found.append(f"top-1 agreement {agreement.top1:.3%} is below {self.top1:.1%}")
        return found

    def __str__(self) -> str:
        limits = {
            "every difference ≤ {:g}": self.max_difference,
            "mean KL ≤ {:g}": self.mean_kl,
            "top-1 ≥ {:.1%}": self.top1,
        }
        stated = ", ".join(text.format(limit) for text, limit in limits.items() if limit is not None)
        return f"{stated} ({self.reason})"


_F32 = Tolerance("f32 throughout: only the order of sums differs", max_difference=2e-3)
_F16 = Tolerance("f16 weights and cache: 11 bits of activations", mean_kl=1e-5, top1=0.998)
# Rounding steps are 8 times f16's, and KL grows with the square of the error: 64 times f16's at most.
_BF16 = Tolerance("bf16 weights: 8 bits of activations", mean_kl=1e-4, top1=0.99)
_QUANTISED = Tolerance("quantised weights: room for activations in 8-bit blocks", mean_kl=1e-4, top1=0.985)
# Two computations in 16 bits are compared there, each with f16's error.
_CUDA = Tolerance("16-bit matrix products on the GPU", mean_kl=1e-4, top1=0.995)

# Mean KL that quantising the weights may add where the file is held against the original checkpoint. Small
# models suffer most: SmolLM2-135M shows 0.0013 in q8_0, 0.10 in q5_0, 0.14 in q5_1 and 0.42 in q4_0, about 4
# times as much for each bit less; these are about three times that.
_EXPORT = {
    "q8_0": 5e-3,
    "q6_k": 1e-1,
    "q5_k": 4e-1,
    "q5_1": 4e-1,
    "q5_0": 4e-1,
    "q4_k": 1.2,
    "q4_1": 1.2,
    "q4_0": 1.2,
    "iq4_nl": 1.2,
    "q3_k": 3.0,
    "q2_k": 6.0,
}


def tolerance_for(weights: str, device: str, against_original: bool) -> Tolerance:
    """`weights` is the type of most of the file's weights ("q8_0"), `device` "cpu" or "cuda…".

    `against_original`: the reference is the checkpoint that the file was exported from, and not the file's
    own weights.
    """
    if against_original and weights not in ("f32", "f16", "bf16"):
        limit = _EXPORT.get(weights, max(_EXPORT.values()))
        return Tolerance(f"weights rounded to {weights} by the export", mean_kl=limit)
    if device.startswith("cuda"):
        return _CUDA
    return {"f32": _F32, "f16": _F16, "bf16": _BF16}.get(weights, _QUANTISED)
