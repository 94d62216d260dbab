"""The reference's choice of pages, against loops over single queries and keys."""

import math

import pytest
import torch

from dca_export.reference.attention import eager_attention, rotate_queries
from dca_export.reference.positions import key_positions, query_positions
from dca_export.reference.rotary import Rotary
from dca_export.reference.sparse import Block, Choices, SparsePrefill, blocks, hidden_keys
from dca_export.scheme import Scheme

HEADS, KV_HEADS, SIZE, TOKENS = 2, 1, 8, 1700
SCHEME = Scheme(300, 100, 512)
ALPHA = 0.9


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(3)
    rotary = Rotary(10000.0 ** (-torch.arange(0, SIZE, 2).double() / SIZE))
    q = 3 * torch.randn(HEADS, TOKENS, SIZE, dtype=torch.float64)
    k = torch.randn(KV_HEADS, TOKENS, SIZE, dtype=torch.float64)
    k += (
        2 * torch.randn(1, TOKENS // 150 + 1, SIZE, dtype=torch.float64).repeat_interleave(150, 1)[:, :TOKENS]
    )
    v = torch.randn(KV_HEADS, TOKENS, SIZE, dtype=torch.float64)
    return rotary, q, k, v


def both(tensors, scheme, attention, alpha=ALPHA, given=None):
    """What is hidden from all queries, and the arguments it was found by."""
    rotary, q, k, _ = tensors
    indices = torch.arange(TOKENS)
    queries = rotate_queries(q, indices, scheme, attention, rotary)
    keys = rotary.rotate(k, key_positions(indices, None if attention == "plain" else scheme))
    sparse = SparsePrefill(alpha, 256, TOKENS - 128, given)
    used = None if attention == "plain" else scheme
    return hidden_keys(0, queries, keys, used, attention, SIZE**-0.5, sparse), queries, keys, sparse


def position(kind, query, scheme):
    intra, successive, inter = (int(each) for each in query_positions(torch.tensor(query), scheme))
    return {"intra": intra, "successive": successive, "inter": inter}[kind]


def kind_of(query, key, attention):
    if attention == "plain":
        return "intra"
    apart = query // SCHEME.chunk_size - key // SCHEME.chunk_size
    return ("intra", "successive", "inter")[min(apart, 2)]


def oracle(tensors, attention, head, start, stop):
    """The pages that a block reads, as (page, kind), one key and query after another."""
    rotary, q, k, _ = tensors
    own = start // 128
    members: dict[tuple[int, str], dict[int, list[int]]] = {}  # page and kind → chunk → keys
    for key in range(stop):
        chunk = 0 if attention == "plain" else key // SCHEME.chunk_size
        members.setdefault((key // 128, kind_of(start, key, attention)), {}).setdefault(chunk, []).append(key)
    scores = {}
    for page, chunks in members.items():
        if page[0] >= own:
            continue
        for chunk, keys in chunks.items():
            places = keys if attention == "plain" else [key % SCHEME.chunk_size for key in keys]
            mean = sum(
                rotary.rotate(k[:, [key]], torch.tensor([at]))[0, 0]
                for key, at in zip(keys, places, strict=True)
            )
            for query in range(start, stop):
                at = query if attention == "plain" else position(page[1], query, SCHEME)
                turned = rotary.rotate(q[head, [query]][None], torch.tensor([at]))[0, 0]
                scores[page, chunk, query] = float(turned @ mean) / len(keys) / math.sqrt(SIZE)
    most = {query: max(s for (_, _, at), s in scores.items() if at == query) for query in range(start, stop)}
    weights: dict = {}
    for (page, chunk, query), score in scores.items():
        weights[page, chunk] = weights.get((page, chunk), 0.0) + math.exp(score - most[query])
    heaviest = max(weights.values())
    read = {page for (page, _), weight in weights.items() if weight >= ALPHA * heaviest}
    return read | {page for page in members if page[0] < 2 or page[0] >= own - 4}


@pytest.mark.parametrize("attention", ["plain", "dca"])
@pytest.mark.parametrize(("head", "block"), [(0, (1504, 1536)), (1, (1504, 1536)), (1, (1440, 1472))])
def test_choices_are_those_of_single_keys_and_queries(tensors, attention, head, block):
    start, stop = block
    hidden, *_ = both(tensors, SCHEME, attention)
    expected = oracle(tensors, attention, head, start, stop)
    for key in range(start // 128 * 128):
        page = (key // 128, kind_of(start, key, attention))
        assert bool(hidden[head, start, key]) == (page not in expected), key
    assert torch.equal(hidden[head, start], hidden[head, stop - 1])
    assert hidden[head, start].any()


def test_nothing_is_hidden_where_all_is_kept(tensors):
    assert not both(tensors, SCHEME, "dca", alpha=0.0)[0].any()


def test_hidden_keys_take_no_part(tensors):
    hidden, queries, keys, _ = both(tensors, SCHEME, "dca")
    values = tensors[3]
    whole = eager_attention(queries, keys, values, SCHEME, passed_over=hidden)
    changed = values.clone()
    row = 1510
    changed[0, hidden[0, row]] = 1e6
    assert torch.equal(
        eager_attention(queries, keys, changed, SCHEME, passed_over=hidden)[0, row], whole[0, row]
    )
    assert not torch.equal(eager_attention(queries, keys, changed, SCHEME)[0, row], whole[0, row])


def test_blocks_are_cut_at_multiples_and_borders():
    assert blocks(280, 330, SCHEME, 0, 1000) == [(280, 288), (288, 300), (300, 320), (320, 330)]
    assert blocks(250, 330, None, 256, 320) == [(256, 288), (288, 320)]


def test_given_choices_are_read_and_compared(tensors):
    everything = [
        frozenset((page, kind) for page in range(13) for kind in ("intra", "successive", "inter"))
    ] * HEADS
    given = [Choices({Block(1504, 1536): everything})]
    hidden, _, _, sparse = both(tensors, SCHEME, "dca", given=given)
    assert not hidden.any()
    assert sparse.disagreements and all(each.block == (1504, 1536) for each in sparse.disagreements)
    assert max(each.margin for each in sparse.disagreements) > 1e-3
