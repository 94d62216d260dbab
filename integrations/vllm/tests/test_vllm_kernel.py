"""The Triton kernels against the definition in float64. On a card where there is one, else interpreted.

Needs torch and triton alone: `pytest integrations/vllm/tests/test_vllm_kernel.py`.
"""

import math
import random

import pytest
import torch
from oracle import expected, random_batch

from dca_vllm.rotation import Rotation, table_of
from dca_vllm.scheme import Scheme

kernel = pytest.importorskip("dca_vllm.kernel", reason="needs triton", exc_type=ImportError)

CARD = torch.cuda.is_available()
DEVICE = "cuda" if CARD else "cpu"
# Weights and rotated queries are rounded to the cache's type; values are of the order of 1.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = list(TOLERANCE) if CARD else [torch.float32, torch.float16]
CASES = 24 if CARD else 4


def rotation_of(pairs, positions, factor=1.0, halves=True):
    frequencies = (10000.0 ** -(torch.arange(pairs) / pairs)).float()
    row = torch.cat((frequencies.cos(), frequencies.sin())) * factor
    return frequencies, Rotation(table_of(row, positions), halves)


def difference(seed, scheme, sizes, heads, kv_heads, head_size, block_size, dtype, pairs=None, factor=1.0,
               halves=True, splits=None, padding=0):  # fmt: skip
    """How far the kernel is from the oracle at most, over a random batch."""
    pairs = pairs or head_size // 2
    frequencies, rotation = rotation_of(pairs, scheme.pretraining_length, factor, halves)

    def rotate_key(k, at):
        return rotation.rotate(k.float(), at % scheme.chunk_size).to(k.dtype)

    batch = random_batch(seed, sizes, heads, kv_heads, head_size, block_size, dtype, rotate_key)
    on_card = Rotation(rotation.table.to(DEVICE), halves)
    query = torch.cat((batch.query, torch.full((padding, heads, head_size), math.nan, dtype=dtype)))
    output = torch.zeros_like(query, device=DEVICE)
    kernel.paged_attention(
        query.to(DEVICE), batch.kv_cache.to(DEVICE), batch.block_table.to(DEVICE),
        batch.query_starts.to(DEVICE), batch.lengths.to(DEVICE), scheme, on_card, head_size**-0.5, output,
        max(n for n, _ in sizes), splits=splits,
    )  # fmt: skip
    wanted = expected(batch, scheme, frequencies, factor, head_size**-0.5, halves)
    return (output.cpu()[: len(wanted)].double() - wanted).abs().max()


def random_case(seed):
    draw = random.Random(seed)
    longest = 400 if CARD else 90
    c = draw.randint(2, longest // 2)
    s = draw.randint(1, c - 1)
    scale = draw.choice([0.0, 0.1])
    scheme = Scheme(s, draw.randint(0, c - s), c, scale, 20 if scale else 0)
    sizes = []
    for _ in range(draw.randint(1, 5)):
        length = draw.randint(1, longest)
        sizes.append((draw.choice([1, 1, length, draw.randint(1, length)]), length))
    kv_heads = draw.choice([1, 2])
    return scheme, sizes, kv_heads * draw.choice([1, 3, 4, 7]), kv_heads, draw.choice([1, 16, 24])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(CASES))
def test_mixed_batches_are_eq_8(seed, dtype):
    scheme, sizes, heads, kv_heads, block_size = random_case(seed)
    head_size = random.Random(seed).choice([64, 80, 96, 128])
    assert difference(seed, scheme, sizes, heads, kv_heads, head_size, block_size, dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("splits", [1, 2, 5, 32])
def test_decode_with_keys_divided_among_programs(splits):
    scheme = Scheme(48, 9, 60)
    sizes = [(1, 1), (1, 49), (1, 300), (1, 96)]
    assert difference(3, scheme, sizes, 6, 2, 64, 16, torch.float32, splits=splits) < 2e-5


@pytest.mark.parametrize("halves", [True, False])
def test_heads_that_rotate_in_part_and_a_factor_on_the_rotation(halves):
    scheme = Scheme(12, 3, 16)
    sizes = [(20, 50), (1, 30)]
    found = difference(4, scheme, sizes, 4, 4, 64, 16, torch.float32, pairs=12, factor=1.2, halves=halves)
    assert found < 2e-5


def test_the_padding_of_a_graph_disturbs_nothing():
    """Rows beyond the last sequence hold NaN, and sequences without rows lie among the others."""
    scheme = Scheme(12, 3, 16)
    sizes = [(1, 40), (0, 17), (1, 9), (0, 1)]
    assert difference(5, scheme, sizes, 4, 2, 64, 16, torch.float32, padding=3) < 2e-5


@pytest.mark.parametrize("splits", [1, 3])
def test_a_row_without_tokens_is_zero(splits):
    _, rotation = rotation_of(32, 16)
    query = torch.full((1, 4, 64), 3.0, device=DEVICE)
    output = torch.full_like(query, math.nan)
    kernel.paged_attention(
        query, torch.full((1, 2, 16, 128), math.nan, device=DEVICE),
        torch.zeros(1, 1, dtype=torch.int32, device=DEVICE),
        torch.tensor([0, 1], dtype=torch.int32, device=DEVICE),
        torch.zeros(1, dtype=torch.int32, device=DEVICE),
        Scheme(12, 3, 16), Rotation(rotation.table.to(DEVICE), True), 0.125, output, 1, splits=splits,
    )  # fmt: skip
    assert output.eq(0).all()


def test_stored_keys_and_values_lie_in_their_slots_and_nowhere_else():
    torch.manual_seed(0)
    key, value = torch.randn(2, 5, 2, 24, device=DEVICE)
    cache = torch.full((4, 2, 3, 48), 7.0, device=DEVICE)
    slots = torch.tensor([11, -1, 0, 5], device=DEVICE)  # fewer than tokens, as in a padded batch
    wanted = cache.clone()
    for token, slot in ((0, 11), (2, 0), (3, 5)):
        wanted[slot // 3, :, slot % 3] = torch.cat((key[token], value[token]), -1)
    kernel.store_keys_and_values(key, value, cache, slots)
    assert torch.equal(cache, wanted)


@pytest.mark.skipif(not CARD, reason="needs a card: graphs and 8-bit floats")
def test_a_graph_follows_lengths_and_tables_that_change():
    """Decode recorded once and replayed for other lengths gives what a fresh launch gives."""
    scheme = Scheme(48, 9, 60)
    _, rotation = rotation_of(32, 60)
    rotation = Rotation(rotation.table.cuda(), True)
    batch = random_batch(
        6, [(1, 500), (1, 260), (1, 37)], 8, 2, 64, 16, torch.float16,
        lambda k, at: Rotation(rotation.table.cpu(), True).rotate(k, at % 48),
    )  # fmt: skip
    query, cache, table, starts, lengths = (
        each.cuda()
        for each in (batch.query, batch.kv_cache, batch.block_table, batch.query_starts, batch.lengths)
    )

    def attend(output):
        kernel.paged_attention(query, cache, table, starts, lengths, scheme, rotation, 0.125, output, 1)

    recorded, fresh = torch.zeros_like(query), torch.zeros_like(query)
    attend(fresh)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend(recorded)
    for shorter in (0, 30, 1):
        lengths -= shorter
        graph.replay()
        attend(fresh)
        assert torch.equal(recorded, fresh)


@pytest.mark.skipif(not CARD, reason="needs a card: graphs and 8-bit floats")
def test_a_cache_of_8_bit_floats_is_dequantised_by_its_scales():
    """Keys and values stored by our kernel in fp8 attend as the same numbers rounded to fp8 in float32."""
    scheme = Scheme(48, 9, 60)
    frequencies, rotation = rotation_of(32, 60)
    on_card = Rotation(rotation.table.cuda(), True)
    torch.manual_seed(7)
    length = 200
    query = torch.randn(length, 4, 64).bfloat16()
    key, value = torch.randn(2, length, 2, 64).bfloat16()
    scales = [torch.tensor(each, device="cuda") for each in (0.5, 0.25)]
    turned = rotation.rotate(key.float(), torch.arange(length) % 48).bfloat16()
    cache = torch.zeros(13, 2, 16, 128, dtype=torch.float8_e4m3fn, device="cuda")
    slots = torch.arange(length, device="cuda")
    kernel.store_keys_and_values(turned.cuda(), value.cuda(), cache, slots, *scales)
    exact = torch.zeros(13, 2, 16, 128, dtype=torch.bfloat16)
    at = torch.arange(length)
    for part, (source, scale) in enumerate(((turned, 0.5), (value, 0.25))):
        rounded = ((source.float() / scale).to(torch.float8_e4m3fn).float() * scale).bfloat16()
        exact[at // 16, :, at % 16, 64 * part : 64 * part + 64] = rounded
    shared = (
        torch.arange(13, dtype=torch.int32, device="cuda")[None],
        torch.tensor([0, length], dtype=torch.int32, device="cuda"),
        torch.tensor([length], dtype=torch.int32, device="cuda"),
        scheme, on_card, 0.125,
    )  # fmt: skip
    found, wanted = torch.empty_like(query, device="cuda"), torch.empty_like(query, device="cuda")
    kernel.paged_attention(query.cuda(), cache, *shared, found, length, *scales)
    kernel.paged_attention(query.cuda(), exact.cuda(), *shared, wanted, length)
    assert (found.float() - wanted.float()).abs().max() < 3e-2
