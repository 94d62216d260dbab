// Attention over the cache, one span of keys at a time, folded into a running softmax: the walk
// over the three key ranges of Dual Chunk Attention calls these with one query rotation a range.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/cache_kinds.h"
#include "cpu/kernels/exp2.h"
#include "cpu/kernels/matmul.h"

namespace dca::cpu {
namespace {

/// Key blocks [block, block + blocks) as f32, still (head_dim, kPanelLanes) each.
template <class Cache>
inline void load_key_blocks(const AttendPanelArgs& args, uint32_t block, int blocks, float* out) {
    KeyReader<Cache> keys(args.cache, args.head_dim);
    for (int b = 0; b < blocks; ++b) {
        keys.enter((block + b) * kPanelLanes);
        for (int d = 0; d < args.head_dim; ++d, out += kPanelLanes) {
            for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) store(out + lane, keys.at(d, lane));
        }
    }
}

/// Values [first, first + count) as f32, (count, head_dim).
template <class Cache>
inline void load_value_rows(const AttendPanelArgs& args, uint32_t first, int count, float* out) {
    const ValueReader<Cache, kKeyTile> values(args.cache, args.head_dim, first, count);
    for (int j = 0; j < count; ++j) {
        // head_dim is a multiple of 16 (checked when the cache is made)
        for (int d = 0; d < args.head_dim; d += kVectorWidth) store(out + d, values.at(j, d));
        out += args.head_dim;
    }
}

/// out (head_dim × 32) += values (count × head_dim)ᵀ · weights (count × 32), for head_dim a template
/// constant, so that the stride is one.
template <int HeadDim>
[[gnu::always_inline]] inline void accumulate_values(const float* values, int count, const float* weights, float* out) {
    multiply_rows<1, HeadDim>(values, HeadDim, weights, count, out, true);
}

inline void accumulate_values_any(int head_dim, const float* values, int count, const float* weights, float* out) {
    switch (head_dim) {
        case 64: return accumulate_values<64>(values, count, weights, out);
        case 80: return accumulate_values<80>(values, count, weights, out);
        case 96: return accumulate_values<96>(values, count, weights, out);
        case 128: return accumulate_values<128>(values, count, weights, out);
        default: break;
    }
    for (int d = 0; d < head_dim; ++d) {
        for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
            F sum = load(out + d * kPanelLanes + lane);
            for (int j = 0; j < count; ++j) sum += splat(values[j * head_dim + d]) * load(weights + j * kPanelLanes + lane);
            store(out + d * kPanelLanes + lane, sum);
        }
    }
}

/// Scores of keys [first, first + count) below the span, after a lane's query or before its window become minus infinity.
inline void mask_scores(float* scores, uint32_t first, int count, const AttendPanelArgs& args) {
    for (int j = 0; j < count; ++j) {
        const uint32_t key = first + j;
        float* row = scores + j * kPanelLanes;
        if (key < args.span.begin) {
            for (int lane = 0; lane < kPanelLanes; ++lane) row[lane] = kMinusInfinity;
        } else if (key > args.first_query) {
            const auto hidden = static_cast<int>(key - args.first_query);  // lanes whose query comes before the key
            for (int lane = 0; lane < hidden && lane < kPanelLanes; ++lane) row[lane] = kMinusInfinity;
        }
        // Lanes whose window begins after the key.
        const int64_t leaves = key + args.window - args.first_query;
        if (leaves >= kPanelLanes) continue;
        for (auto lane = static_cast<int>(leaves > 0 ? leaves : 0); lane < kPanelLanes; ++lane) row[lane] = kMinusInfinity;
    }
}

/// What a tile of keys gave to a vector of queries.
struct TileWeights {
    F sum;
    F largest;
};

/// Turns `kVectorWidth` columns of scores (count × 32) into weights, and moves maximum, sum and these columns of out (head_dim × 32) along.
template <bool Capped>
[[gnu::always_inline]] inline TileWeights fold_softmax(float* scores, int count, float* running_maximum, float* running_sum, float* out,
                                                       int head_dim, float cap) {
    if constexpr (Capped) {
        for (int j = 0; j < count; ++j) {
            float* at = scores + j * kPanelLanes;
            const F score = load(at);
            store(at, score > splat(kMinusInfinity) ? soft_cap(score, cap) : score);  // what is not seen stays so
        }
    }
    F tile_top = splat(kMinusInfinity);
    for (int j = 0; j < count; ++j) tile_top = maximum(tile_top, load(scores + j * kPanelLanes));
    const F before = load(running_maximum);
    const F top = maximum(before, tile_top);
    // A query that has seen no key yet keeps weight 0 for all of these.
    const F base = top > splat(kMinusInfinity) ? top : F{};
    F sum{};
    for (int j = 0; j < count; ++j) {
        const F weight = exp2_of(load(scores + j * kPanelLanes) - base);
        store(scores + j * kPanelLanes, weight);
        sum += weight;
    }
    const F shrink = exp2_of(before - base);
    store(running_sum, load(running_sum) * shrink + sum);
    store(running_maximum, top);
    bool moved = false;
    for (int i = 0; i < kVectorWidth; ++i) moved |= shrink[i] != 1.0f;
    if (moved) {
        for (int d = 0; d < head_dim; ++d) store(out + d * kPanelLanes, load(out + d * kPanelLanes) * shrink);
    }
    return {sum, exp2_of(tile_top - base)};
}

/// Calls visit(first, count) for the span's tiles of keys. They end at multiples of kKeyTile, so that where pages lie
/// decides nothing about the sums: a page is a tile.
template <class Visit>
[[gnu::always_inline]] inline void for_key_tiles(KeyRange span, Visit visit) {
    for (uint32_t first = span.begin / kPanelLanes * kPanelLanes; first < span.end;) {
        const uint32_t next = (first / kKeyTile + 1) * kKeyTile;
        visit(first, static_cast<int>((next < span.end ? next : span.end) - first));
        first = next;
    }
}

/// Whether head g of the group was not given these keys.
inline bool passes_over(const AttendPanelArgs& args, int g) { return args.heads != nullptr && args.heads[g] == 0; }

/// Whether some lane does not see some key of a tile.
inline bool is_masked(uint32_t first, int count, const AttendPanelArgs& args) {
    return first < args.span.begin || int64_t{first} + count > args.first_query + 1 || first + args.window < args.first_query + kPanelLanes;
}

template <class Cache, bool Capped>
void attend_tile(const AttendPanelArgs& args, uint32_t first, int count) {
    const int head_dim = args.head_dim;
    const size_t head_values = size_t{kPanelLanes} * head_dim;
    float* keys = args.scratch;
    float* values = keys + size_t{kKeyTile} * head_dim;
    float* scores = values + size_t{kKeyTile} * head_dim;
    const int blocks = (count + kPanelLanes - 1) / kPanelLanes;
    load_key_blocks<Cache>(args, first / kPanelLanes, blocks, keys);
    load_value_rows<Cache>(args, first, count, values);
    for (int g = 0; g < args.group; ++g) {
        if (passes_over(args, g)) continue;
        const float* q = args.q + g * head_values;
        for (int b = 0; b < blocks; ++b) {
            const int rows = count - b * kPanelLanes < kPanelLanes ? count - b * kPanelLanes : kPanelLanes;
            multiply_rows<1, kPanelLanes>(keys + b * head_values, rows, q, head_dim, scores + b * kPanelLanes * kPanelLanes, false);
        }
        if (is_masked(first, count, args)) mask_scores(scores, first, count, args);
        float* out = args.out + g * head_values;
        for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
            fold_softmax<Capped>(scores + lane, count, args.maximum + g * kPanelLanes + lane, args.sum + g * kPanelLanes + lane, out + lane,
                                 head_dim, args.cap);
        }
        accumulate_values_any(head_dim, values, count, scores, out);
    }
}

template <class Cache, bool Capped>
void attend_panel(const AttendPanelArgs& args) {
    for_key_tiles(args.span, [&](uint32_t first, int count) { attend_tile<Cache, Capped>(args, first, count); });
}

/// Scores of a key block for `Group` queries: score (Group × 32) = q (Group × head_dim) · block (head_dim × 32).
template <class Cache, int Group>
[[gnu::always_inline]] inline void score_block(const KeyReader<Cache>& keys, const float* q, int head_dim, float* scores) {
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        F sums[Group] = {};
        for (int d = 0; d < head_dim; ++d) {
            const F key = keys.at(d, lane);
#pragma GCC unroll 8
            for (int g = 0; g < Group; ++g) sums[g] += splat(q[g * head_dim + d]) * key;
        }
#pragma GCC unroll 8
        for (int g = 0; g < Group; ++g) store(scores + g * kPanelLanes + lane, sums[g]);
    }
}

/// out (Group × head_dim) += weights (Group × 32) · values (count × head_dim)
template <class Cache, int Group>
[[gnu::always_inline]] inline void weigh_rows(const ValueReader<Cache, kPanelLanes>& values, int count, const float* weights, int head_dim,
                                              float* out) {
    for (int d = 0; d < head_dim; d += kVectorWidth) {
        F sums[Group];
#pragma GCC unroll 8
        for (int g = 0; g < Group; ++g) sums[g] = load(out + g * head_dim + d);
        for (int j = 0; j < count; ++j) {
            const F value = values.at(j, d);
#pragma GCC unroll 8
            for (int g = 0; g < Group; ++g) sums[g] += splat(weights[g * kPanelLanes + j]) * value;
        }
#pragma GCC unroll 8
        for (int g = 0; g < Group; ++g) store(out + g * head_dim + d, sums[g]);
    }
}

template <class Cache, bool Capped, int Group>
void attend_row_group(const AttendRowArgs& args, int first_head) {
    const int head_dim = args.head_dim;
    KeyReader<Cache> keys(args.cache, head_dim);
    const float* q = args.q + static_cast<size_t>(first_head) * head_dim;
    float* out = args.out + static_cast<size_t>(first_head) * head_dim;
    alignas(64) float scores[Group * kPanelLanes];
    for (uint32_t first = args.span.begin / kPanelLanes * kPanelLanes; first < args.span.end; first += kPanelLanes) {
        const uint32_t left = args.span.end - first;
        const int count = left < uint32_t{kPanelLanes} ? static_cast<int>(left) : kPanelLanes;
        const int skip = first < args.span.begin ? static_cast<int>(args.span.begin - first) : 0;
        keys.enter(first);
        score_block<Cache, Group>(keys, q, head_dim, scores);
        for (int g = 0; g < Group; ++g) {
            float* row = scores + g * kPanelLanes;
            if constexpr (Capped) {
                for (int j = 0; j < kPanelLanes; j += kVectorWidth) store(row + j, soft_cap(load(row + j), args.cap));
            }
            for (int j = 0; j < skip; ++j) row[j] = kMinusInfinity;
            for (int j = count; j < kPanelLanes; ++j) row[j] = kMinusInfinity;
            float& running = args.maximum[first_head + g];
            float top = running;
            for (int j = 0; j < kPanelLanes; ++j) top = row[j] > top ? row[j] : top;
            F sums{};
            for (int j = 0; j < kPanelLanes; j += kVectorWidth) {
                const F weight = exp2_of(load(row + j) - splat(top));
                store(row + j, weight);
                sums += weight;
            }
            float& sum = args.sum[first_head + g];
            if (top > running) {
                const float shrink = exp2_of(splat(running - top))[0];
                sum *= shrink;
                for (int d = 0; d < head_dim; d += kVectorWidth)
                    store(out + g * head_dim + d, load(out + g * head_dim + d) * splat(shrink));
                running = top;
            }
            sum += sum_of(sums);
        }
        const ValueReader<Cache, kPanelLanes> values(args.cache, head_dim, first, count);
        weigh_rows<Cache, Group>(values, count, scores, head_dim, out);
    }
}

template <class Cache, bool Capped>
void attend_row(const AttendRowArgs& args) {
    int head = 0;
    for (; head + 8 <= args.group; head += 8) attend_row_group<Cache, Capped, 8>(args, head);
    for (; head + 4 <= args.group; head += 4) attend_row_group<Cache, Capped, 4>(args, head);
    switch (args.group - head) {
        case 3: return attend_row_group<Cache, Capped, 3>(args, head);
        case 2: return attend_row_group<Cache, Capped, 2>(args, head);
        case 1: return attend_row_group<Cache, Capped, 1>(args, head);
        default: return;
    }
}

}  // namespace
}  // namespace dca::cpu
