"""The plain attention against the definition: random pages, lengths and schemes, in float64 and float32."""

import random

import pytest
import torch
from oracle import expected, random_batch

from dca_vllm.attention import paged_attention
from dca_vllm.rotation import Rotation, table_of
from dca_vllm.scheme import Scheme


def rotation_of(pairs: int, positions: int, factor: float = 1.0, halves: bool = True):
    frequencies = (10000.0 ** -(torch.arange(pairs) / pairs)).float()
    row = torch.cat((frequencies.cos(), frequencies.sin())) * factor
    return frequencies, Rotation(table_of(row, positions), halves)


def random_case(seed: int):
    draw = random.Random(seed)
    c = draw.randint(2, 40)
    s = draw.randint(1, c - 1)
    scale = draw.choice([0.0, 0.1, 0.5])
    scheme = Scheme(s, draw.randint(0, c - s), c, scale, 20 if scale else 0)
    sizes = []
    for _ in range(draw.randint(1, 4)):
        length = draw.randint(1, 120)
        sizes.append((draw.choice([1, length, draw.randint(1, length)]), length))
    kv_heads = draw.choice([1, 2, 3])
    return scheme, sizes, kv_heads * draw.choice([1, 3, 4]), kv_heads, draw.choice([1, 3, 16])


@pytest.mark.parametrize("seed", range(12))
def test_is_eq_8_for_any_pages_lengths_and_scheme(seed):
    scheme, sizes, heads, kv_heads, block_size = random_case(seed)
    halves, factor, head_size = seed % 2 == 0, 1.0 + seed % 3 / 4, 20
    frequencies, rotation = rotation_of(8, scheme.pretraining_length, factor, halves)
    batch = random_batch(
        seed, sizes, heads, kv_heads, head_size, block_size, torch.float32,
        lambda k, at: rotation.rotate(k, at % scheme.chunk_size),
    )  # fmt: skip
    output = torch.empty_like(batch.query)
    paged_attention(
        batch.query, batch.kv_cache, batch.block_table, batch.query_starts, batch.lengths,
        scheme, rotation, 0.3, output,
    )  # fmt: skip
    wanted = expected(batch, scheme, frequencies, factor, 0.3, halves)
    assert (output - wanted).abs().max() < 2e-5


def test_a_rank_of_tensor_parallelism_computes_its_heads_alone():
    """What a rank gets is a slice of the heads: together they are the whole."""
    scheme = Scheme(12, 3, 16)
    _, rotation = rotation_of(8, 16)

    def run(batch, cache, heads):
        output = torch.empty_like(batch.query[:, heads])
        paged_attention(
            batch.query[:, heads], cache, batch.block_table, batch.query_starts, batch.lengths,
            scheme, rotation, 0.25, output,
        )  # fmt: skip
        return output

    batch = random_batch(
        0, [(50, 50), (1, 33)], 6, 2, 16, 4, torch.float32, lambda k, at: rotation.rotate(k, at % 12)
    )
    whole = run(batch, batch.kv_cache, slice(0, 6))
    ranks = [run(batch, batch.kv_cache[:, r : r + 1], slice(3 * r, 3 * r + 3)) for r in range(2)]
    assert torch.allclose(torch.cat(ranks, dim=1), whole, atol=1e-6, rtol=0)


def test_chunked_prefill_is_prefill_in_one_go():
    scheme = Scheme(12, 3, 16, 0.2, 20)
    _, rotation = rotation_of(8, 16)
    batch = random_batch(1, [(61, 61)], 4, 2, 16, 4, torch.float32, lambda k, at: rotation.rotate(k, at % 12))
    whole, pieces = torch.empty_like(batch.query), torch.empty_like(batch.query)
    arguments = (scheme, rotation, 0.25)
    paged_attention(
        batch.query, batch.kv_cache, batch.block_table, batch.query_starts, batch.lengths, *arguments, whole
    )
    for first, last in ((0, 7), (7, 30), (30, 31), (31, 61)):
        paged_attention(
            batch.query[first:last], batch.kv_cache, batch.block_table,
            torch.tensor([0, last - first]), torch.tensor([last]), *arguments, pieces[first:last],
        )  # fmt: skip
    assert torch.allclose(pieces, whole, atol=1e-6, rtol=0)


def test_the_table_keeps_the_angles_of_far_positions():
    """Frequencies read off a float32 row turn by the same angle at 30,000 as the float64 ones."""
    frequencies, rotation = rotation_of(32, 30_001)
    angles = 30_000 * frequencies.double()
    wanted = torch.cat((angles.cos(), angles.sin()))
    assert (rotation.table[30_000] - wanted).abs().max() < 4e-3
