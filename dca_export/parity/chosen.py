"""What sparse prefill chose, beside what the reference would have."""

from __future__ import annotations

from dataclasses import dataclass

# A page that one side reads and the other does not must be a tie: its weight within this of the threshold, as
# |log2| of their ratio. With a cache in f32 weights and activations differ by the order of sums alone; in
# the runs of tests/parity both sides chose the same throughout.
TIE = 1e-3
# On a card activations are rounded to 16 bits, and so are the queries and means that choose. Random models
# of six layers, 2,600 tokens, on an H100 (2026-11-26): up to 0.03 with weights in f16 and Q8_0, 0.10 in bf16;
# single keys of stated budgets, two layers, 1,500 tokens, up to 0.06 over f16, 0.14 over bf16 (codes: 0.63
# in q8, 8.6 in q4, so choices over them are not judged). Twice that.
TIE_ON_CARDS = 0.3


@dataclass(frozen=True)
class Chosen:
    """What the runtime chose, beside what the reference would have."""

    pages: int
    """that both judged, over all blocks and heads; of stated budgets columns and diagonals"""
    disagreements: int
    """read by one side only"""
    largest_margin: float
    """how far from the threshold the worst of them was, |log2(weight / threshold)|; 0: none"""
    density: float
    """share of the pairs of query and key that the runtime computed"""

    def failures(self, tie: float | None) -> list[str]:
        """`tie`: how far from the threshold a tie may be; None: choices are not judged."""
        if not self.pages:
            return ["nothing was chosen: no block of queries was sparse"]
        if tie is not None and not self.largest_margin <= tie:
            return [
                f"{self.disagreements} of {self.pages} are read by one side only, the farthest "
                f"{self.largest_margin:.2g} from the threshold in log2, ties are up to {tie:g}"
            ]
        return []
