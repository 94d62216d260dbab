"""The reference's choice of columns and diagonals, against loops over single queries and keys."""

import math

import pytest
import torch

from dca_export.reference.attention import rotate_queries
from dca_export.reference.positions import key_positions
from dca_export.reference.rotary import Rotary
from dca_export.reference.stated import (
    LOCAL_DIAGONALS,
    SINK_COLUMNS,
    Budget,
    Lines,
    StatedPrefill,
    Unit,
    hidden_keys,
    units,
)
from dca_export.scheme import Scheme

HEADS, KV_HEADS, SIZE, TOKENS, LAST = 2, 1, 8, 1000, 40
SCHEME = Scheme(300, 100, 512)
BUDGETS = [[Budget(45, 130), Budget(60, 110)]]


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(3)
    rotary = Rotary(10000.0 ** (-torch.arange(0, SIZE, 2).double() / SIZE))
    q = 3 * torch.randn(HEADS, TOKENS, SIZE, dtype=torch.float64)
    k = torch.randn(KV_HEADS, TOKENS, SIZE, dtype=torch.float64)
    return rotary, q, k


def hidden_of(tensors, attention, given=None, budgets=BUDGETS):
    rotary, q, k = tensors
    scheme = None if attention == "plain" else SCHEME
    indices = torch.arange(TOKENS)
    queries = rotate_queries(q, indices, scheme, attention, rotary)
    keys = rotary.rotate(k, key_positions(indices, scheme))
    stated = StatedPrefill(budgets, LAST, 256, TOKENS, step=512, given=given)

    def advance(distance):
        return rotary.advance(queries.intra, torch.full((TOKENS,), distance))

    hidden = hidden_keys(0, queries, keys, scheme, attention, SIZE**-0.5, stated, advance)
    return hidden, stated


def at_position(query, key, attention):
    """Where a choosing query stands for a key: nothing is held at c - 1."""
    if attention == "plain":
        return query
    s, r = SCHEME.chunk_size, query % SCHEME.chunk_size
    return (r, s + r, SCHEME.pretraining_length - 1 + r)[min(query // s - key // s, 2)]


def oracle(tensors, attention, head, unit):
    """Columns and diagonals, one key and query after another."""
    rotary, q, k = tensors
    columns, diagonals = [0.0] * unit.stop, [0.0] * unit.stop
    for query in range(max(unit.start, unit.stop - LAST), unit.stop):
        logits = []
        for key in range(query + 1):
            place = key if attention == "plain" else key % SCHEME.chunk_size
            turned = rotary.rotate(q[head, [query]][None], torch.tensor([at_position(query, key, attention)]))
            stored = rotary.rotate(k[:, [key]], torch.tensor([place]))
            logits.append(float(turned[0, 0] @ stored[0, 0]) / math.sqrt(SIZE))
        total = sum(map(math.exp, logits))
        for key, logit in enumerate(logits):
            columns[key] += math.exp(logit) / total
            diagonals[query - key] += math.exp(logit) / total
    for j in range(SINK_COLUMNS):
        columns[j] = math.inf
    for d in range(LOCAL_DIAGONALS):
        diagonals[d] = math.inf
    budget = BUDGETS[0][head]
    return (
        set(sorted(range(unit.stop), key=lambda j: -columns[j])[: budget.columns]),
        set(sorted(range(unit.stop), key=lambda d: -diagonals[d])[: budget.diagonals]),
    )


@pytest.mark.parametrize(
    ("attention", "unit", "head"),
    [("dca", Unit(900, 1000), 0), ("dca", Unit(512, 600), 1), ("plain", Unit(512, 1000), 1)],
)
def test_what_is_read_is_what_single_keys_and_queries_say(tensors, attention, unit, head):
    hidden, stated = hidden_of(tensors, attention)
    assert unit in units(stated, None if attention == "plain" else SCHEME)
    columns, diagonals = oracle(tensors, attention, head, unit)
    for query in (unit.start, unit.start + 45, unit.stop - 1):
        first = max(unit.start, query // 32 * 32)
        block = range(first, min(unit.stop, query // 32 * 32 + 32))
        for key in range(query + 1):
            read = key in columns or any(each - key in diagonals for each in block)
            assert bool(hidden[head, query, key]) == (not read), (query, key)
    assert hidden[head, unit.stop - 1].any()


def test_units_are_cut_at_steps_and_borders():
    stated = StatedPrefill(BUDGETS, LAST, 250, 1000, step=512)
    assert units(stated, SCHEME) == [(256, 300), (300, 512), (512, 600), (600, 900), (900, 1000)]


def test_nothing_is_hidden_before_the_threshold_nor_with_all_lines(tensors):
    hidden, _ = hidden_of(tensors, "dca")
    assert not hidden[:, :256].any() and hidden[:, 256:].any()
    everything = [[Budget(0, TOKENS)] * HEADS]
    assert not hidden_of(tensors, "dca", budgets=everything)[0].tril().any()


def test_given_lines_are_read_and_compared(tensors):
    lines = [Lines(frozenset(range(TOKENS)), frozenset({0}))] * HEADS
    hidden, stated = hidden_of(tensors, "dca", given=[{Unit(512, 600): lines}])
    assert not hidden.tril().any()
    assert stated.compared == 2 * 2 * 600
    assert max(each.margin for each in stated.disagreements) > 1e-3


def test_its_own_choice_given_has_nothing_to_say_against(tensors):
    columns, diagonals = oracle(tensors, "dca", 0, Unit(900, 1000))
    others = oracle(tensors, "dca", 1, Unit(900, 1000))
    lines = [Lines(frozenset(columns), frozenset(diagonals)), Lines(*map(frozenset, others))]
    assert not hidden_of(tensors, "dca", given=[{Unit(900, 1000): lines}])[1].disagreements
