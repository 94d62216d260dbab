// What columns and diagonals weigh: the choosing queries' scores with all keys are made twice, once for each query's softmax,
// then for the sums of its weights over columns and over diagonals. Queries and keys are rounded to f16, products summed in f32.
//
// Sums have one order whatever the card: a block of threads adds up the diagonals of its keys, and those of neighbouring blocks,
// which overlap, are added afterwards.
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/attention/variants.h"
#include "cuda/device/allow_shared.h"
#include "cuda/device/panels.cuh"
#include "cuda/device/vectors.cuh"
#include "cuda/sparse/key_values.cuh"
#include "cuda/sparse/stated/work.h"

namespace dca::cuda::lines {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kMaxPerLane = 8;  // head_dim <= 256

/// cos and sin of where the choosing queries stand for each range: a block of threads a query and range.
__global__ void __launch_bounds__(kThreads) rotation_kernel(const Work work) {
    const LineRotation& rotation = work.args.rotation;
    const uint32_t lane = blockIdx.x, range = blockIdx.y, half = work.args.shape.rotary_dim / 2;
    // Not held at c - 1, so that a diagonal stays one: s + r for the chunk before, c - 1 + r for earlier ones.
    const uint32_t chunk_size = work.args.scheme.chunk_size;
    const uint32_t offset = range == 0 ? 0 : range == 1 ? chunk_size : rotation.last_position;
    const double position = static_cast<double>(offset) + work.cut.query(lane) % chunk_size;
    float2* row = work.rotations + (size_t{range} * work.cut.lanes + lane) * half;
    for (uint32_t j = threadIdx.x; j < half; j += kThreads) {
        double sine, cosine;
        sincos(position * rotation.radians[j], &sine, &cosine);
        row[j] = {static_cast<float>(cosine * rotation.magnitude), static_cast<float>(sine * rotation.magnitude)};
    }
}

/// The choosing queries, rotated: a warp a query and range.
__global__ void __launch_bounds__(kThreads) rotate_kernel(const Work work) {
    const AttentionShape& shape = work.args.shape;
    const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= work.ranges * work.cut.lanes) return;
    const uint32_t range = item / work.cut.lanes, query = item % work.cut.lanes, i = work.cut.query(query);
    const size_t from = (i - work.args.start) * work.args.q_stride + static_cast<size_t>(work.first_head + blockIdx.y) * shape.head_dim;
    const float2* angles = work.rotations + size_t{item} * (shape.rotary_dim / 2);
    const float factor = work.args.scheme.logit_factor(i);
    float q[kMaxPerLane];
#pragma unroll
    for (int n = 0; n < kMaxPerLane; ++n) {
        const int e = lane + 32 * n;
        q[n] = e < shape.head_dim ? rotated_element(shape, work.args.q, from, e, work.args.dtype, angles) * factor : 0.0f;
    }
    if (holds_codes(work.args.cache.type)) turn_singles(q, shape.head_dim);
    __half* to = work.queries + ((size_t{blockIdx.y} * 3 + range) * work.cut.lanes + query) * shape.head_dim;
#pragma unroll
    for (int n = 0; n < kMaxPerLane; ++n) {
        const int e = lane + 32 * n;
        if (e < shape.head_dim) to[e] = rounded<__half>(q[n]);
    }
}

template <int kHeadDim>
struct Shared {
    alignas(1024) uint8_t queries[kTile * kHeadDim * 2];
    alignas(1024) uint8_t keys[kTile * kHeadDim * 2];
};

/// What the second pass has besides; `diagonals` goes on as far as there are lanes.
struct Sums {
    float weights[kTile][kTile + 1];  // of a tile's queries and keys
    float columns[kSplit];
    float diagonals[kSplit];
};

/// A tile of 16-bit values, rows of kHeadDim each, that lie back to back.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(uint8_t* tile, const __half* from) {
    constexpr int kVectors = kHeadDim / 8;
    for (int n = threadIdx.x; n < static_cast<int>(kTile) * kVectors; n += kThreads) {
        const uint4 eight = *reinterpret_cast<const uint4*>(from + size_t{8} * n);
        *reinterpret_cast<uint4*>(tile + Panels<kHeadDim>::offset(kTile, n / kVectors, n % kVectors * 8)) = eight;
    }
}

/// The keys from `first` on; those outside of the cut are zeros.
template <int kHeadDim>
__device__ __forceinline__ void load_keys(uint8_t* tile, const Work& work, const HeadRows& rows, uint32_t first) {
    constexpr int kVectors = kHeadDim / 8;
    const LayerCache& cache = work.args.cache;
    for (int n = threadIdx.x; n < static_cast<int>(kTile) * kVectors; n += kThreads) {
        const uint32_t key = first + n / kVectors;
        const int vector = n % kVectors;
        float v[8] = {};
        if (key >= work.cut.first_key && key < work.cut.end) {
            const size_t row = rows.at(key);
            const bool fine = cache.type == CacheType::Q4 && key / kPageTokens >= work.args.fresh_page;
            load_eight(cache, row, fine ? fine_row(cache, cache.fine_keys, row, rows.n_kv_heads, kHeadDim) : nullptr, kHeadDim, vector, v);
            if (cache.type == CacheType::Q4) {
                const __half* centre = centre_of(cache, rows.page_of(key), rows.head, kHeadDim) + vector * 8;
#pragma unroll
                for (int e = 0; e < 8; ++e) v[e] += __half2float(centre[e]);
            }
        }
        Eight<__half> eight;
#pragma unroll
        for (int e = 0; e < 8; ++e) eight.v[e] = rounded<__half>(v[e]);
        *reinterpret_cast<Eight<__half>*>(tile + Panels<kHeadDim>::offset(kTile, n / kVectors, vector * 8)) = eight;
    }
}

/// s = Q K^T of this warp's 16 queries: s[j] is of keys 8 j to 8 j + 7.
template <int kHeadDim>
__device__ __forceinline__ void multiply(const Shared<kHeadDim>& shared, float (&s)[kTile / 8][4]) {
    using P = Panels<kHeadDim>;
    const int lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * 16;
#pragma unroll
    for (auto& product : s) product[0] = product[1] = product[2] = product[3] = 0.0f;
#pragma unroll 2
    for (int e = 0; e < kHeadDim; e += 16) {
        uint32_t q[4];
        ptx::load_matrices(q, ptx::shared_address(shared.queries) + P::offset(kTile, first_row + lane % 16, e + lane / 16 * 8));
#pragma unroll
        for (int key = 0; key < static_cast<int>(kTile); key += 16) {
            uint32_t k[4];
            ptx::load_matrices(k,
                               ptx::shared_address(shared.keys) + P::offset(kTile, key + lane / 16 * 8 + lane % 8, e + lane / 8 % 2 * 8));
            ptx::mma_16x8x16<__half>(s[key / 8], q, k[0], k[1]);
            ptx::mma_16x8x16<__half>(s[key / 8 + 1], q, k[2], k[3]);
        }
    }
}

/// Calls begin_tile(key) and end_tile(key) for every tile of keys of split blockIdx.x, and between them take(key, s) with what the
/// queries from lane `first_lane` on score them: s is minus infinity where a key is of another range, which has its own call, or
/// after the query.
template <int kHeadDim, class Begin, class Take, class End>
__device__ __forceinline__ void for_tiles(Shared<kHeadDim>& shared, const Work& work, uint32_t first_lane, float scale_log2,
                                          Begin begin_tile, Take take, End end_tile) {
    const LineArgs& args = work.args;
    const uint32_t begin = work.cut.tiles_begin() + blockIdx.x * kSplit, stop = min(begin + kSplit, work.cut.end);
    const uint32_t group = args.shape.n_heads / args.shape.n_kv_heads;
    const HeadRows rows{args.page_table, static_cast<uint32_t>(args.shape.n_kv_heads), (work.first_head + blockIdx.y) / group};
    const int lane = threadIdx.x % 32;
    const uint32_t first_row = first_lane + threadIdx.x / 32 * 16 + lane / 4;
    uint32_t loaded = ~0u;  // range whose queries are in shared memory
    for (uint32_t key = begin; key < stop; key += kTile) {
        __syncthreads();  // the tile before is used up
        load_keys<kHeadDim>(shared.keys, work, rows, key);
        begin_tile(key);
        for (uint32_t range = 0; range < work.ranges; ++range) {
            const KeyRange keys = key_range<false>(args.scheme, work.chunk, static_cast<Range>(range), work.cut.end);
            const uint32_t from = max(keys.begin, key), to = min(keys.end, key + kTile);
            if (from >= to) continue;
            if (loaded != range) {
                __syncthreads();  // the queries of another range are used up
                loaded = range;
                load_queries<kHeadDim>(shared.queries,
                                       work.queries + ((size_t{blockIdx.y} * 3 + range) * work.cut.lanes + first_lane) * kHeadDim);
            }
            __syncthreads();
            float s[kTile / 8][4];
            multiply(shared, s);
#pragma unroll
            for (int j = 0; j < static_cast<int>(kTile) / 8; ++j) {
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    const uint32_t row = first_row + n / 2 * 8, at = key + 8 * j + lane % 4 * 2 + n % 2;
                    const bool seen = at >= from && at < to && row < work.cut.choosing && at <= work.cut.query(row);
                    s[j][n] = seen ? s[j][n] * scale_log2 : -INFINITY;
                }
            }
            take(key, s);
        }
        end_tile(key);
    }
}

/// The softmax of blockIdx.z's tile of queries over the keys of a split.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) softmax_kernel(const Work work, float scale_log2) {
    extern __shared__ __align__(1024) uint8_t memory[];
    float maximum[2] = {kNoMaximum, kNoMaximum}, sum[2] = {};
    const auto nothing = [](uint32_t) {};
    for_tiles<kHeadDim>(
        *reinterpret_cast<Shared<kHeadDim>*>(memory), work, blockIdx.z * kTile, scale_log2, nothing,
        [&](uint32_t, const float (&s)[kTile / 8][4]) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float raised = maximum[half];
#pragma unroll
                for (const float (&product)[4] : s) raised = fmaxf(raised, fmaxf(product[2 * half], product[2 * half + 1]));
                sum[half] *= ptx::exp2(maximum[half] - raised);
#pragma unroll
                for (const float (&product)[4] : s)
                    sum[half] += ptx::exp2(product[2 * half] - raised) + ptx::exp2(product[2 * half + 1] - raised);
                maximum[half] = raised;
            }
        },
        nothing);
    const uint32_t first_row = blockIdx.z * kTile + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            const float other = __shfl_xor_sync(~0u, maximum[half], step), more = __shfl_xor_sync(~0u, sum[half], step);
            const float raised = fmaxf(maximum[half], other);
            sum[half] = sum[half] * ptx::exp2(maximum[half] - raised) + more * ptx::exp2(other - raised);
            maximum[half] = raised;
        }
        const size_t row = size_t{blockIdx.y} * work.cut.lanes + first_row + 8 * half;
        if (threadIdx.x % 4 == 0) work.softmax[row * work.cut.splits + blockIdx.x] = {maximum[half], sum[half]};
    }
}

/// The softmax of whole queries: a warp each.
__global__ void __launch_bounds__(kThreads) merge_kernel(const Work work) {
    const uint32_t query = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    const size_t row = size_t{blockIdx.y} * work.cut.lanes + query;  // lanes are whole tiles
    float maximum = kNoMaximum, sum = 0.0f;
    for (uint32_t split = lane; split < work.cut.splits; split += 32) {
        const float2 part = work.softmax[row * work.cut.splits + split];
        const float raised = fmaxf(maximum, part.x);
        sum = sum * ptx::exp2(maximum - raised) + part.y * ptx::exp2(part.x - raised);
        maximum = raised;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, maximum, step), more = __shfl_xor_sync(~0u, sum, step);
        const float raised = fmaxf(maximum, other);
        sum = sum * ptx::exp2(maximum - raised) + more * ptx::exp2(other - raised);
        maximum = raised;
    }
    if (lane == 0) work.merged[row] = {maximum, query < work.cut.choosing ? 1.0f / sum : 0.0f};
}

/// Sums of a split's weights over its columns, and over the diagonals that cross it.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) sum_kernel(const Work work, float scale_log2) {
    extern __shared__ __align__(1024) uint8_t memory[];
    Sums& sums = *reinterpret_cast<Sums*>(memory + sizeof(Shared<kHeadDim>));
    const Cut& cut = work.cut;
    const uint32_t begin = cut.tiles_begin() + blockIdx.x * kSplit, stop = min(begin + kSplit, cut.end);
    const uint32_t n_diagonals = kSplit + cut.lanes;
    for (uint32_t n = threadIdx.x; n < kSplit; n += kThreads) sums.columns[n] = 0.0f;
    for (uint32_t n = threadIdx.x; n < n_diagonals; n += kThreads) sums.diagonals[n] = 0.0f;
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;  // of a tile
    for (uint32_t first_lane = 0; first_lane < cut.lanes; first_lane += kTile) {
        float2 softmax[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) softmax[half] = work.merged[size_t{blockIdx.y} * cut.lanes + first_lane + row + 8 * half];
        for_tiles<kHeadDim>(
            *reinterpret_cast<Shared<kHeadDim>*>(memory), work, first_lane, scale_log2,
            [&](uint32_t) {
                for (uint32_t n = threadIdx.x; n < kTile * kTile; n += kThreads) sums.weights[n / kTile][n % kTile] = 0.0f;
            },
            [&](uint32_t, const float (&s)[kTile / 8][4]) {
#pragma unroll
                for (int j = 0; j < static_cast<int>(kTile) / 8; ++j) {
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        if (s[j][n] == -INFINITY) continue;
                        const int column = 8 * j + threadIdx.x % 4 * 2 + n % 2;
                        sums.weights[row + n / 2 * 8][column] = ptx::exp2(s[j][n] - softmax[n / 2].x) * softmax[n / 2].y;
                    }
                }
            },
            [&](uint32_t key) {
                __syncthreads();
                const int own = threadIdx.x;
                if (own < static_cast<int>(kTile)) {
                    float sum = 0.0f;
                    for (uint32_t n = 0; n < kTile; ++n) sum += sums.weights[n][own];
                    sums.columns[key - begin + own] += sum;
                }
                const int distance = own - static_cast<int>(kTile - 1);  // lane - column
                if (distance < static_cast<int>(kTile)) {
                    float sum = 0.0f;
                    const int last = min(static_cast<int>(kTile), static_cast<int>(kTile) + distance);
                    for (int n = max(0, distance); n < last; ++n) sum += sums.weights[n][n - distance];
                    sums.diagonals[first_lane + kSplit - 1 - (key - begin) + distance] += sum;
                }
            });
    }
    __syncthreads();
    for (uint32_t key = max(begin, cut.first_key) + threadIdx.x; key < stop; key += kThreads)
        work.columns[size_t{blockIdx.y} * cut.n_keys() + key - cut.first_key] = sums.columns[key - begin];
    float* parts = work.parts + (size_t{blockIdx.y} * cut.splits + blockIdx.x) * n_diagonals;
    for (uint32_t n = threadIdx.x; n < n_diagonals; n += kThreads) parts[n] = sums.diagonals[n];
}

/// Weights of whole diagonals: a thread each.
__global__ void __launch_bounds__(kThreads) diagonal_kernel(const Work work) {
    const Cut& cut = work.cut;
    const uint32_t distance = blockIdx.x * kThreads + threadIdx.x;
    if (distance >= cut.n_keys()) return;
    const int64_t n_diagonals = kSplit + cut.lanes;
    // In the part of split n it is kSplit n further on than in the first one.
    int64_t at = int64_t{distance} - (cut.end - cut.choosing) + cut.tiles_begin() + kSplit - 1;
    uint32_t split = at < 0 ? static_cast<uint32_t>((kSplit - 1 - at) / kSplit) : 0;
    float sum = 0.0f;
    for (at += int64_t{split} * kSplit; split < cut.splits && at < n_diagonals; ++split, at += kSplit)
        sum += work.parts[(size_t{blockIdx.y} * cut.splits + split) * n_diagonals + at];
    work.diagonals[size_t{blockIdx.y} * cut.n_keys() + distance] = sum;
}

template <int kHeadDim>
cudaError_t launch(const Work& work, cudaStream_t stream) {
    const Cut& cut = work.cut;
    const float scale_log2 = work.args.shape.scale * kLog2E;
    const size_t sums_bytes = sizeof(Shared<kHeadDim>) + sizeof(Sums) + cut.lanes * sizeof(float);
    cudaError_t error = allow_shared_bytes(softmax_kernel<kHeadDim>, sizeof(Shared<kHeadDim>));
    if (error == cudaSuccess) error = allow_shared_bytes(sum_kernel<kHeadDim>, sums_bytes);
    if (error != cudaSuccess) return error;
    rotation_kernel<<<dim3(cut.lanes, work.ranges), kThreads, 0, stream>>>(work);
    rotate_kernel<<<dim3(ceil_div(work.ranges * cut.lanes, kWarps), work.heads), kThreads, 0, stream>>>(work);
    softmax_kernel<kHeadDim>
        <<<dim3(cut.splits, work.heads, cut.lanes / kTile), kThreads, sizeof(Shared<kHeadDim>), stream>>>(work, scale_log2);
    merge_kernel<<<dim3(cut.lanes / kWarps, work.heads), kThreads, 0, stream>>>(work);
    sum_kernel<kHeadDim><<<dim3(cut.splits, work.heads), kThreads, sums_bytes, stream>>>(work, scale_log2);
    diagonal_kernel<<<dim3(ceil_div(cut.n_keys(), kThreads), work.heads), kThreads, 0, stream>>>(work);
    return cudaGetLastError();
}

}  // namespace

cudaError_t weigh_lines(const Work& work, cudaStream_t stream) {
    switch (work.args.shape.head_dim) {
        case 64: return launch<64>(work, stream);
        case 80: return launch<80>(work, stream);
        case 96: return launch<96>(work, stream);
        case 128: return launch<128>(work, stream);
        case 256: return launch<256>(work, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace dca::cuda::lines
