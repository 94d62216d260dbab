#include "cuda/weights/kernels.h"

#include "cuda/device/vectors.cuh"
#include "cuda/weights/unpack.h"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

uint32_t blocks_for(uint64_t threads) { return static_cast<uint32_t>((threads + kThreads - 1) / kThreads); }

template <class Block, class P>
__global__ void __launch_bounds__(kThreads)
    repack_kernel(const Block* blocks, uint64_t n_units, int units_a_block, Matrix to, uint64_t first_unit) {
    const uint64_t u = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (u >= n_units) return;
    const uint64_t at = first_unit + u;
    const uint32_t units = to.cols / kUnit;
    store_unit<P>(to, static_cast<uint32_t>(at / units), static_cast<uint32_t>(at % units),
                  pack_unit<P>(unpack(blocks[u / units_a_block], static_cast<int>(u % units_a_block))));
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads) convert_kernel(const From* from, uint64_t n, To* to) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < n) to[i] = rounded<To>(to_float(from[i]));
}

template <class From>
void convert(const void* from, uint64_t n, const Matrix& to, uint64_t first, cudaStream_t stream) {
    const From* in = static_cast<const From*>(from);
    if (to.format == WeightFormat::F16) {
        convert_kernel<<<blocks_for(n), kThreads, 0, stream>>>(in, n, static_cast<__half*>(to.low) + first);
    } else {
        convert_kernel<<<blocks_for(n), kThreads, 0, stream>>>(in, n, static_cast<__nv_bfloat16*>(to.low) + first);
    }
}

/// A thread decodes eight values, so that a warp writes 512 bytes in a row.
template <class P, class To>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Matrix from, uint32_t first_row, uint64_t n_eights, Eight<To>* to) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n_eights) return;
    const uint32_t eights = from.cols / 8, column = static_cast<uint32_t>(i % eights);
    float values[8];
    decode_eight<P>(from, first_row + static_cast<uint32_t>(i / eights), column / 4, static_cast<int>(column % 4), values);
    Eight<To> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) out.v[k] = rounded<To>(values[k]);
    to[i] = out;
}

struct Position {
    const EmbedArgs& args;
    uint32_t token, row;

    __device__ explicit Position(const EmbedArgs& args_) : args(args_), token(blockIdx.x), row(static_cast<uint32_t>(args_.tokens[token])) {
        if (token == 0 && threadIdx.x < args.n_words) args.words_to[threadIdx.x] = args.words_from[threadIdx.x];
    }
    __device__ float* out() const { return args.x + uint64_t{token} * args.table.cols; }
};

template <class P>
__global__ void __launch_bounds__(kThreads) embed_planes_kernel(const EmbedArgs args) {
    const Position at(args);
    const uint32_t units = args.table.cols / kUnit;
    for (uint32_t i = threadIdx.x; i < 4 * units; i += kThreads) {
        float values[8];
        decode_eight<P>(args.table, at.row, i / 4, static_cast<int>(i % 4), values);
        for (int k = 0; k < 8; ++k) at.out()[8 * i + k] = values[k] * args.scale;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) embed_dense_kernel(const EmbedArgs args) {
    const Position at(args);
    const T* row = static_cast<const T*>(args.table.low) + uint64_t{at.row} * args.table.cols;
    constexpr uint32_t kAtOnce = 8;  // loads
    for (uint32_t first = threadIdx.x; first < args.table.cols; first += kAtOnce * kThreads) {
        T values[kAtOnce];
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; ++k)
            if (first + k * kThreads < args.table.cols) values[k] = row[first + k * kThreads];
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; ++k)
            if (first + k * kThreads < args.table.cols) at.out()[first + k * kThreads] = to_float(values[k]) * args.scale;
    }
}

}  // namespace

WeightFormat device_format(BlockType type, Dtype dtype) {
    WeightFormat format = dtype == Dtype::F16 ? WeightFormat::F16 : WeightFormat::BF16;
    visit_blocks(type, [&](auto, auto planes) { format = decltype(planes)::kFormat; });
    return format;
}

cudaError_t repack(BlockType type, const void* blocks, uint64_t n_blocks, const Matrix& to, uint64_t first_value, cudaStream_t stream) {
    const bool quantised = visit_blocks(type, [&](auto block, auto planes) {
        const int units_a_block = static_cast<int>(block_info(type).block_size) / kUnit;
        const uint64_t units = n_blocks * units_a_block;
        repack_kernel<decltype(block), decltype(planes)><<<blocks_for(units), kThreads, 0, stream>>>(
            static_cast<const decltype(block)*>(blocks), units, units_a_block, to, first_value / kUnit);
    });
    if (!quantised) {
        if (type == BlockType::F32) convert<float>(blocks, n_blocks, to, first_value, stream);
        if (type == BlockType::F16) convert<__half>(blocks, n_blocks, to, first_value, stream);
        if (type == BlockType::BF16) convert<__nv_bfloat16>(blocks, n_blocks, to, first_value, stream);
    }
    return cudaGetLastError();
}

cudaError_t dequantize(const Matrix& from, uint32_t first_row, uint32_t rows, Dtype dtype, void* to, cudaStream_t stream) {
    const uint64_t eights = uint64_t{rows} * from.cols / 8;
    visit_planes(from.format, [&](auto planes) {
        using P = decltype(planes);
        if (dtype == Dtype::F16) {
            dequantize_kernel<P><<<blocks_for(eights), kThreads, 0, stream>>>(from, first_row, eights, static_cast<Eight<__half>*>(to));
        } else {
            dequantize_kernel<P>
                <<<blocks_for(eights), kThreads, 0, stream>>>(from, first_row, eights, static_cast<Eight<__nv_bfloat16>*>(to));
        }
    });
    return cudaGetLastError();
}

cudaError_t embed(const EmbedArgs& args, cudaStream_t stream) {
    const bool quantised = visit_planes(
        args.table.format, [&](auto planes) { embed_planes_kernel<decltype(planes)><<<args.n_tokens, kThreads, 0, stream>>>(args); });
    if (!quantised) {
        if (args.table.format == WeightFormat::F16)
            embed_dense_kernel<__half><<<args.n_tokens, kThreads, 0, stream>>>(args);
        else
            embed_dense_kernel<__nv_bfloat16><<<args.n_tokens, kThreads, 0, stream>>>(args);
    }
    return cudaGetLastError();
}

}  // namespace dca::cuda
