"""Dual Chunk Attention over pages as Triton kernels: prefill, decode and mixed batches, for one rank.

Needs PyTorch and Triton alone. Every launch depends on the shapes of its tensors and on nothing that they
hold, so it can be recorded in a CUDA graph. Three steps: queries are rotated once for each range of keys, one
running softmax goes over the three ranges, and where a sequence's keys were split between programs, what they
found is merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from dca_vllm.rotation import Rotation
    from dca_vllm.scheme import Scheme

LOG2_E = 1.4426950408889634  # the softmax runs on powers of two

# Programs that a launch should have to fill a GPU (two for each of an H100's 132 multiprocessors), and the
# most pieces that one sequence's keys are cut into for it.
WANTED_PROGRAMS = 264
MAX_SPLITS = 32

# Triton compiles a kernel anew where an argument is 1, and then takes it for a constant.
SIZES = ["tokens", "sequences", "s"]

FEW_QUERIES = 16  # up to so many of a sequence are decode


def store_keys_and_values(
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    slots: torch.Tensor,
    key_scale: torch.Tensor | None = None,
    value_scale: torch.Tensor | None = None,
) -> None:
    """key and value (tokens, kv_heads, head_size) into kv_cache (blocks, kv_heads, block_size, 2·head_size).

    A slot is block · block_size + offset, or -1 for a token that is not kept; there may be fewer slots than
    tokens. A cache of 8-bit floats gets values divided by the scales, tensors of one number each.
    """
    _, kv_heads, block_size, _ = kv_cache.shape
    head_size = key.shape[-1]
    scaled = key_scale is not None
    _store[(slots.shape[0], kv_heads)](
        key, value, kv_cache, slots, key_scale if scaled else key, value_scale if scaled else key,
        *key.stride()[:2], *value.stride()[:2], *kv_cache.stride()[:3],
        BLOCK_SIZE=block_size, D=head_size, D_PAD=triton.next_power_of_2(head_size), SCALED=scaled,
        num_warps=1,
    )  # fmt: skip


def paged_attention(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_starts: torch.Tensor,
    lengths: torch.Tensor,
    scheme: Scheme,
    rotation: Rotation,
    scale: float,
    output: torch.Tensor,
    longest_query: int,
    key_scale: torch.Tensor | None = None,
    value_scale: torch.Tensor | None = None,
    splits: int | None = None,
) -> None:
    """Attention of a batch of sequences, written to `output`, which has the shape of `query`.

    Arguments are those of attention.paged_attention. Rows of `query` beyond the last sequence (the padding of
    a CUDA graph) are left alone. `longest_query` is the most rows that any sequence has. `splits`, by default
    chosen from the shapes, is among how many programs the keys of a sequence are divided.
    """
    tokens, heads, head_size = query.shape
    _, kv_heads, block_size, _ = kv_cache.shape
    sequences = lengths.shape[0]
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    scaled = key_scale is not None

    # Rows of one program: block_q tokens, each with every head of one key head. tl.dot wants 16 at least.
    block_q = max(1, (64 if longest_query > FEW_QUERIES else 16) // group_pad)
    blocks = tokens // block_q + sequences
    if splits is None:
        splits = _splits(blocks * kv_heads, longest_query)
    queries = rotated_queries(query, query_starts, lengths, scheme, rotation)
    partial, share = output, output
    if splits > 1:
        partial = torch.empty((splits, tokens, heads, head_size), dtype=torch.float32, device=query.device)
        share = torch.empty((2, splits, tokens, heads), dtype=torch.float32, device=query.device)
    _attend[(blocks, kv_heads, splits)](
        queries, kv_cache, block_table, query_starts, lengths, output, partial, share,
        key_scale if scaled else query, value_scale if scaled else query,
        tokens, sequences, scale * LOG2_E, scheme.chunk_size,
        block_table.stride(0), *kv_cache.stride()[:3], *output.stride()[:2],
        HEADS=heads, GROUP=group, GROUP_PAD=group_pad, BLOCK_Q=block_q, BLOCK_M=max(block_q * group_pad, 16),
        BLOCK_N=32 if head_size > 128 or query.dtype == torch.float32 else 64, BLOCK_SIZE=block_size,
        D=head_size, D_PAD=max(16, triton.next_power_of_2(head_size)), SPLITS=splits, SCALED=scaled,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _merge[(tokens, heads)](
            partial, share, output, tokens, *output.stride()[:2],
            HEADS=heads, SPLITS=splits, SPLITS_PAD=triton.next_power_of_2(splits),
            D=head_size, D_PAD=triton.next_power_of_2(head_size), num_warps=2,
        )  # fmt: skip


def _splits(programs: int, longest_query: int) -> int:
    """Prefill has rows enough; decode of few sequences leaves a GPU idle unless their keys are divided."""
    if longest_query > FEW_QUERIES:
        return 1
    return max(1, min(MAX_SPLITS, WANTED_PROGRAMS // programs))


def rotated_queries(
    query: torch.Tensor, query_starts: torch.Tensor, lengths: torch.Tensor, scheme: Scheme, rotation: Rotation
) -> torch.Tensor:
    """(3, tokens, heads, head_size): query as keys of all earlier chunks, of the chunk before and of its own
    see it, multiplied by the logit factor."""
    tokens, heads, head_size = query.shape
    pairs = rotation.table.shape[1] // 2
    queries = torch.empty((3, tokens, heads, head_size), dtype=query.dtype, device=query.device)
    head_block = min(8, triton.next_power_of_2(heads))
    _rotate[(tokens, triton.cdiv(heads, head_block))](
        query, queries, rotation.table, query_starts, lengths,
        tokens, lengths.shape[0], *query.stride()[:2],
        scheme.chunk_size, scheme.local_window, scheme.pretraining_length,
        scheme.logit_scale, max(scheme.logit_scale_length, 1),
        HEADS=heads, HEAD_BLOCK=head_block, D=head_size, D_PAD=triton.next_power_of_2(head_size),
        PAIRS=pairs, PAIRS_PAD=triton.next_power_of_2(pairs), HALVES=rotation.halves,
        SHARPENED=scheme.logit_scale > 0, num_warps=2,
    )  # fmt: skip
    return queries


@triton.jit
def _sequence_of(starts, value, sequences, DIVISOR: tl.constexpr, STEP: tl.constexpr):
    """The last sequence b with starts[b] // DIVISOR + STEP · b <= value; these never fall with b."""
    low = 0
    high = sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts + middle) // DIVISOR + STEP * middle <= value:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _store(
    key, value, cache, slots, key_scale, value_scale,
    key_token, key_head, value_token, value_head, cache_block, cache_head, cache_slot,
    BLOCK_SIZE: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        d = tl.arange(0, D_PAD)
        inside = d < D
        k = tl.load(key + token * key_token + head * key_head + d, mask=inside)
        v = tl.load(value + token * value_token + head * value_head + d, mask=inside)
        if SCALED:
            k = k.to(tl.float32) / tl.load(key_scale)
            v = v.to(tl.float32) / tl.load(value_scale)
        to = cache + slot // BLOCK_SIZE * cache_block + head * cache_head + slot % BLOCK_SIZE * cache_slot
        tl.store(to + d, k.to(cache.dtype.element_ty), mask=inside)
        tl.store(to + D + d, v.to(cache.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _rotate(
    query, queries, table, starts, lengths,
    tokens, sequences, query_token, query_head, s, w, c, logit_scale, logit_scale_length,
    HEADS: tl.constexpr, HEAD_BLOCK: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    PAIRS: tl.constexpr, PAIRS_PAD: tl.constexpr, HALVES: tl.constexpr, SHARPENED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    sequence = _sequence_of(starts, token, sequences, 1, 0)
    if token >= tl.load(starts + sequences):
        return
    # Its index in the sequence: the queries are the last of the sequence's tokens. What pads the batch of a
    # graph may be a sequence of one row and no tokens.
    index = tl.maximum(token - tl.load(starts + sequence + 1) + tl.load(lengths + sequence), 0)
    factor = 1.0
    if SHARPENED:
        growth = logit_scale * tl.log((index + 1).to(tl.float32) / logit_scale_length) + 1.0
        factor = tl.maximum(growth, 1.0) * tl.maximum(growth, 1.0)

    head = tl.program_id(1) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)[:, None]
    pair = tl.arange(0, PAIRS_PAD)[None, :]
    inside = (head < HEADS) & (pair < PAIRS)
    if HALVES:
        first = pair
        second = pair + PAIRS
    else:
        first = 2 * pair
        second = 2 * pair + 1
    row = query + token * query_token + head * query_head
    x = tl.load(row + first, mask=inside, other=0.0).to(tl.float32) * factor
    y = tl.load(row + second, mask=inside, other=0.0).to(tl.float32) * factor
    r = index % s
    for kind in tl.static_range(3):
        at = r
        if kind == 0:
            at = c - 1 + 0 * r
        if kind == 1:
            at = tl.where(r < w, tl.minimum(s + r, c - 1), c - 1)
        cos = tl.load(table + at * 2 * PAIRS + pair, mask=pair < PAIRS, other=0.0)
        sin = tl.load(table + at * 2 * PAIRS + PAIRS + pair, mask=pair < PAIRS, other=0.0)
        to = queries + ((kind * tokens + token) * HEADS + head) * D
        tl.store(to + first, (x * cos - y * sin).to(queries.dtype.element_ty), mask=inside)
        tl.store(to + second, (y * cos + x * sin).to(queries.dtype.element_ty), mask=inside)
        if 2 * PAIRS < D:
            d = tl.arange(0, D_PAD)[None, :]
            rest = (head < HEADS) & (d >= 2 * PAIRS) & (d < D)
            kept = tl.load(row + d, mask=rest, other=0.0).to(tl.float32) * factor
            tl.store(to + d, kept.to(queries.dtype.element_ty), mask=rest)


@triton.jit
def _over_range(
    acc, total, highest, q, cache, table, first, last, low, high, scale,
    cache_block, cache_slot,
    BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
):  # fmt: skip
    """One running softmax further over the keys first … last - 1, of which row m sees low[m] … high[m] - 1.

    acc (BLOCK_M, D_PAD), total and highest (BLOCK_M,): weighted values, sum of weights and highest logit so
    far; logits are to the base of two.
    """
    d = tl.arange(0, D_PAD)
    for tile in range(first // BLOCK_N * BLOCK_N, last, BLOCK_N):
        j = tile + tl.arange(0, BLOCK_N)
        inside = (j >= first) & (j < last)
        block = tl.load(table + j // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        at = cache + block * cache_block + (j % BLOCK_SIZE) * cache_slot
        # What lies in a page beyond its sequence may be anything, NaN too: it is not loaded.
        k = tl.load(at[None, :] + d[:, None], mask=inside[None, :] & (d[:, None] < D), other=0.0)
        v = tl.load(at[:, None] + D + d[None, :], mask=inside[:, None] & (d[None, :] < D), other=0.0)
        logits = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale
        seen = (j[None, :] >= low[:, None]) & (j[None, :] < high[:, None])
        logits = tl.where(seen, logits, float("-inf"))
        new = tl.maximum(highest, tl.max(logits, 1))
        base = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen nothing yet
        weights = tl.exp2(logits - base[:, None])
        fade = tl.exp2(highest - base)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision="ieee")
        highest = new
    return acc, total, highest


@triton.jit(do_not_specialize=SIZES)
def _attend(
    queries, cache, block_table, starts, lengths, output, partial, share, key_scale, value_scale,
    tokens, sequences, scale, s,
    table_row, cache_block, cache_head, cache_slot, output_token, output_head,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr, D: tl.constexpr,
    D_PAD: tl.constexpr, SPLITS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    # Sequence b owns the programs from starts[b] // BLOCK_Q + b on: enough for its rows, whatever they are.
    program = tl.program_id(0)
    sequence = _sequence_of(starts, program, sequences, BLOCK_Q, 1)
    start = tl.load(starts + sequence)
    rows = tl.load(starts + sequence + 1) - start
    row = (program - start // BLOCK_Q - sequence) * BLOCK_Q  # of the sequence, the program's first
    if row >= rows:
        return
    length = tl.load(lengths + sequence)
    kv_head = tl.program_id(1)

    m = tl.arange(0, BLOCK_M)
    mine = row + m // GROUP_PAD
    head = kv_head * GROUP + m % GROUP_PAD
    valid = (m // GROUP_PAD < BLOCK_Q) & (mine < rows) & (m % GROUP_PAD < GROUP)
    token = (start + mine).to(tl.int64)
    d = tl.arange(0, D_PAD)
    at = (token * HEADS + head)[:, None] * D + d[None, :]
    loaded = valid[:, None] & (d[None, :] < D)
    kind = tokens.to(tl.int64) * HEADS * D

    # Of each row (index i): its chunk begins at own, the one before at before.
    i = length - rows + mine
    own = i // s * s
    before = tl.maximum(own - s, 0)
    first = length - rows + row
    last = tl.minimum(first + BLOCK_Q, length) - 1
    first_own = first // s * s
    last_own = last // s * s

    # The keys of this program, in whole tiles.
    piece = tl.cdiv(tl.cdiv(length, BLOCK_N), SPLITS) * BLOCK_N
    begin = tl.program_id(2) * piece
    end = begin + piece
    if SCALED:
        scale = scale * tl.load(key_scale)
    pages = block_table + sequence.to(tl.int64) * table_row
    keys = cache + kv_head.to(tl.int64) * cache_head

    acc = tl.zeros((BLOCK_M, D_PAD), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    q = tl.load(queries + at, mask=loaded, other=0.0)
    acc, total, highest = _over_range(
        acc, total, highest, q, keys, pages, begin, tl.minimum(tl.maximum(last_own - s, 0), end),
        0 * i, before, scale, cache_block, cache_slot, BLOCK_N, BLOCK_SIZE, D, D_PAD,
    )  # fmt: skip
    q = tl.load(queries + kind + at, mask=loaded, other=0.0)
    acc, total, highest = _over_range(
        acc, total, highest, q, keys, pages, tl.maximum(first_own - s, begin), tl.minimum(last_own, end),
        before, own, scale, cache_block, cache_slot, BLOCK_N, BLOCK_SIZE, D, D_PAD,
    )  # fmt: skip
    q = tl.load(queries + 2 * kind + at, mask=loaded, other=0.0)
    acc, total, highest = _over_range(
        acc, total, highest, q, keys, pages, tl.maximum(first_own, begin), tl.minimum(last + 1, end),
        own, i + 1, scale, cache_block, cache_slot, BLOCK_N, BLOCK_SIZE, D, D_PAD,
    )  # fmt: skip

    if SCALED:
        acc = acc * tl.load(value_scale)
    if SPLITS == 1:
        # A row's highest logit has the weight 1, so this divides by less than 1 only where nothing was seen.
        acc = acc / tl.maximum(total, 1.0)[:, None]
        to = output + token * output_token + head * output_head
        tl.store(to[:, None] + d[None, :], acc.to(output.dtype.element_ty), mask=loaded)
    else:
        place = (tl.program_id(2) * tokens + token) * HEADS + head
        tl.store(partial + place[:, None] * D + d[None, :], acc, mask=loaded)
        tl.store(share + place, total, mask=valid)
        tl.store(share + SPLITS * tokens * HEADS + place, highest, mask=valid)


@triton.jit(do_not_specialize=["tokens"])
def _merge(
    partial, share, output, tokens, output_token, output_head,
    HEADS: tl.constexpr, SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.arange(0, SPLITS_PAD)
    d = tl.arange(0, D_PAD)
    there = split < SPLITS
    place = (split * tokens + token) * HEADS + head
    total = tl.load(share + place, mask=there, other=0.0)
    highest = tl.load(share + SPLITS * tokens * HEADS + place, mask=there, other=float("-inf"))
    top = tl.max(highest, 0)
    weight = tl.exp2(highest - tl.where(top == float("-inf"), 0.0, top))  # 0 of a split that saw nothing
    inside = there[:, None] & (d[None, :] < D)
    acc = tl.load(partial + place[:, None] * D + d[None, :], mask=inside, other=0.0)
    merged = tl.sum(acc * weight[:, None], 0) / tl.maximum(tl.sum(total * weight, 0), 1.0)
    to = output + token * output_token + head * output_head
    tl.store(to + d, merged.to(output.dtype.element_ty), mask=d < D)
