"""How many units of a text fit in a prompt."""

from collections.abc import Callable

_AIMED = 8  # tries, before halving takes their place


def most_units(tokens: Callable[[int], int], length: int, most: int) -> int:
    """The largest number of units, from 1 to ``most``, with ``tokens(units) <= length``; 0 if there is none.

    ``tokens`` grows with the units, and nearly evenly: so each try aims at the length from what the one
    before it took, and few are needed. A tokenizer works on a prompt of a hundred thousand tokens for a good
    part of a second.
    """
    low, high, units = 0, most + 1, 1  # low fits, high does not
    for tried in range(1, most + 1):
        taken = tokens(units)
        low, high = (units, high) if taken <= length else (low, units)
        if high - low <= 1:
            break
        aim = units + (length - taken) * units // max(taken, 1)
        if tried >= _AIMED:
            aim = (low + high) // 2 if high <= most else 2 * low
        units = min(max(aim, low + 1), high - 1)
    return low
