// What blocks of queries read of the chosen columns and diagonals, as lists of pages: a page is listed where some quarter of the
// block reads some key of it. Which keys those are the attention kernels find themselves (attention/line_bits.cuh).
#include "cuda/attention/line_bits.cuh"
#include "cuda/sparse/page_blocks.h"
#include "cuda/sparse/select_pages.h"
#include "cuda/sparse/stated/work.h"

namespace dca::cuda::lines {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

/// Bits of the keys key ... key + 31 that lie in [begin, end).
__device__ __forceinline__ uint32_t inside(uint32_t key, uint32_t begin, uint32_t end) {
    const uint32_t low = begin > key ? min(begin - key, 32u) : 0, high = end > key ? min(end - key, 32u) : 0;
    if (low >= high) return 0;
    return ~0u >> (32 - (high - low)) << low;
}

/// Which quarters read some key of a page of [begin, end); adds to `unread` the pairs that they leave out.
__device__ __forceinline__ uint32_t readers(const LineArgs& args, const ListedBlock& block, uint32_t head, uint32_t page, uint32_t begin,
                                            uint32_t end, unsigned long long& unread) {
    const uint32_t *columns = args.columns + size_t{head} * args.words, *diagonals = args.diagonals + size_t{head} * args.words;
    uint32_t quarters = 0;
    for (uint32_t n = 0; n < kQuarters; ++n) {
        const uint32_t rows = block.rows_of(n);
        if (rows == 0) continue;
        const uint32_t first = QuarterRows(block.first, block.rows, n).first;
        for (uint32_t key = page * kPageTokens; key < (page + 1) * kPageTokens; key += 32) {
            const uint32_t seen = inside(key, begin, min(end, first + rows));
            if (seen == 0) continue;
            const uint32_t read = keys_read(columns, diagonals, static_cast<int>(key), first, rows);
            if ((read & seen) != 0) quarters |= 1u << n;
            unread += uint64_t{rows} * __popc(inside(key, begin, min(end, first)) & ~read);
        }
    }
    return quarters;
}

/// blockIdx.x: which block of queries, blockIdx.y: which head. A thread a page.
__global__ void __launch_bounds__(kThreads) list_kernel(const LineArgs args, const PageBlocks blocks, uint32_t most_pages) {
    __shared__ uint32_t kept_by[kWarps];
    const uint32_t head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const QueryBlock queries = blocks.at(blockIdx.x);
    const ListedBlock block{queries.first, queries.rows, queries.chunk, 0};
    const size_t list = size_t{head} * blocks.count + blockIdx.x;
    ListedPage* pages = args.pages + list * most_pages;
    const uint32_t ranges = range_count(args.scheme, block.chunk);
    unsigned long long unread = 0;
    uint32_t kept = 0;  // so far
    for (uint32_t range = 0; range < ranges; ++range) {
        const KeyRange keys = key_range<false>(args.scheme, block.chunk, static_cast<Range>(range), block.first + block.rows);
        const uint32_t first = keys.begin / kPageTokens, end = ceil_div(keys.end, kPageTokens);
        for (uint32_t done = 0; done < end - first; done += kThreads) {
            const uint32_t page = end - 1 - done - threadIdx.x;
            uint32_t quarters = 0;
            bool listed = false;
            if (done + threadIdx.x < end - first) {
                quarters = readers(args, block, head, page, keys.begin, keys.end, unread);
                // The last range's first page is where walks end (list_walk.cuh), whether it is read or not.
                listed = quarters != 0 || (range + 1 == ranges && page == first);
            }
            const uint32_t ballot = __ballot_sync(~0u, listed);
            if (lane == 0) kept_by[warp] = __popc(ballot);
            __syncthreads();
            uint32_t before = kept;
            for (uint32_t n = 0; n < kWarps; ++n) {
                if (n < warp) before += kept_by[n];
                kept += kept_by[n];
            }
            __syncthreads();
            if (listed) pages[before + __popc(ballot & ((1u << lane) - 1))] = ListedPage::of(page, static_cast<Range>(range), quarters);
        }
    }
    for (int step = 16; step > 0; step /= 2) unread += __shfl_xor_sync(~0u, unread, step);
    if (lane == 0 && unread != 0) atomicAdd(args.unread + head, unread);
    if (threadIdx.x == 0) args.blocks[list] = {block.first, block.rows, block.chunk, kept};
}

}  // namespace

cudaError_t list_lines(const LineArgs& args, cudaStream_t stream) {
    const PageBlocks blocks(args.start, args.n_queries, args.scheme.chunk_size);
    list_kernel<<<dim3(blocks.count, args.shape.n_heads), kThreads, 0, stream>>>(args, blocks,
                                                                                 select_most_pages(args.start + args.n_queries));
    return cudaGetLastError();
}

}  // namespace dca::cuda::lines
