// Merges what the splits of decode attention on Hopper (sm90.cuh) found: one block of threads a row and key head, a warp a head.
//
// It starts beside the kernel that finds the parts, in what that leaves of each multiprocessor, and waits there.
#pragma once

#include "cuda/attention/decode/decode.cuh"
#include "cuda/device/launch.h"

namespace dca::cuda::decode::sm90 {

// Shared memory that a block asks for and does not use: no multiprocessor takes more than its share of the blocks.
constexpr size_t kSpreadBytes = size_t{32} << 10;
constexpr int kMostCombineThreads = 32 * 8;

/// C: the Config of the kernel before.
template <class C>
__global__ void __launch_bounds__(kMostCombineThreads, 2) combine_kernel(const __grid_constant__ Params params) {
    let_next_start();
    const DecodeArgs& args = params.args;
    const uint32_t pair = blockIdx.x, row = blockIdx.y;
    uint32_t count = 0;
    if (length_of(args, row) != 0) {
        const uint32_t shared = OwnKeys<C>::shared(args, row);
        count = shared != 0 ? SharedParts(params, shared).count : OwnKeys<C>::splits(params, row);
    }
    await_previous();
    if (count == 0) return;
    uint16_t* const out = static_cast<uint16_t*>(args.out) + row * args.out_stride + pair * params.part_heads * C::kHeadDim;
    const auto at = [&](int part, int head) { return params.part(row, pair, part, head); };
    merge<kMostCombineThreads, 16>(
        static_cast<int>(params.part_heads), C::kHeadDim, static_cast<int>(count), params.scale.scale_log2,
        [&](int part, int head) { return __ldcg(&params.partial_softmax[at(part, head)]); },
        [&](int part, int head, int e) {
            return __ldcg(reinterpret_cast<const float4*>(&params.partial_out[at(part, head) * C::kHeadDim + e]));
        },
        [&](int head, int e, const float4& v, float, float sum) {
            const uint2 packed = {pack(v.x / sum, v.y / sum, args.dtype), pack(v.z / sum, v.w / sum, args.dtype)};
            *reinterpret_cast<uint2*>(out + head * C::kHeadDim + e) = packed;
        });
}

}  // namespace dca::cuda::decode::sm90
