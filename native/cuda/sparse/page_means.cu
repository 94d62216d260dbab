// The mean keys of full pages: one block of threads a page and key head. Keys of caches of codes lie turned
// (hadamard.cuh); their mean is turned back, as queries come unturned. Of a Q4 cache the first codes count, whether a page has
// fine ones or not: over a page their errors cancel.
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/device/vectors.cuh"
#include "cuda/sparse/key_values.cuh"
#include "cuda/sparse/select_pages.h"

namespace dca::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxHeadDim = 256;

__global__ void __launch_bounds__(kThreads) mean_kernel(const MeanArgs args) {
    __shared__ float sums[kPageSides][kThreads * 8];  // (groups, head_dim)
    const int head_dim = args.shape.head_dim, vectors = head_dim / 8;
    const int groups = kThreads / vectors, group = threadIdx.x / vectors, vector = threadIdx.x % vectors;
    const FilledPage page = args.pages[blockIdx.x];
    const uint32_t head = blockIdx.y, n_kv_heads = args.shape.n_kv_heads;
    const size_t first_row = (size_t{page.page} * n_kv_heads + head) * kPageTokens;
    // The chunk border inside the page; its end where there is none.
    const uint64_t begin = uint64_t{page.index} * kPageTokens;
    const uint64_t next_chunk = (begin / args.scheme.chunk_size + 1) * args.scheme.chunk_size - begin;
    const uint32_t border = next_chunk < kPageTokens ? static_cast<uint32_t>(next_chunk) : kPageTokens;

    if (group < groups) {
        float sum[kPageSides][8] = {};
        for (uint32_t token = group; token < kPageTokens; token += groups) {
            float values[8];
            load_eight(args.cache, first_row + token, nullptr, head_dim, vector, values);
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                if (token < border)
                    sum[0][n] += values[n];
                else
                    sum[1][n] += values[n];
            }
        }
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            sums[0][group * head_dim + vector * 8 + n] = sum[0][n];
            sums[1][group * head_dim + vector * 8 + n] = sum[1][n];
        }
    }
    __syncthreads();
    // Eight features of a side a thread, the sides one after the other; all lanes come to the turn.
    const bool writes = threadIdx.x < kPageSides * vectors;
    const int side = writes ? threadIdx.x / vectors : 0;
    const uint32_t tokens = side == 0 ? border : kPageTokens - border;
    float mean[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        float sum = 0.0f;
        for (int from = 0; from < groups; ++from) sum += sums[side][from * head_dim + vector * 8 + n];
        mean[n] = tokens == 0 ? 0.0f : sum / static_cast<float>(tokens);
    }
    if (args.cache.type == CacheType::Q4 && tokens != 0) {
        const __half* centre = centre_of(args.cache, page.page, static_cast<int>(head), head_dim) + vector * 8;
#pragma unroll
        for (int n = 0; n < 8; ++n) mean[n] += __half2float(centre[n]);
    }
    if (holds_codes(args.cache.type)) turn_eights(mean, head_dim);
    if (!writes) return;
    __half* means = args.means + (size_t{page.page} * n_kv_heads + head) * kPageSides * head_dim;
#pragma unroll
    for (int n = 0; n < 8; ++n) means[threadIdx.x * 8 + n] = rounded<__half>(mean[n]);
}

}  // namespace

cudaError_t mean_keys(const MeanArgs& args, cudaStream_t stream) {
    if (args.shape.head_dim % 8 != 0 || args.shape.head_dim > kMaxHeadDim || args.scheme.chunk_size < kPageTokens)
        return cudaErrorInvalidValue;
    if (args.cache.type == CacheType::F32) return cudaErrorNotSupported;
    if (args.n_pages == 0) return cudaSuccess;
    mean_kernel<<<dim3(args.n_pages, args.shape.n_kv_heads), kThreads, 0, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace dca::cuda
