// The C API's block format calls.
#include <cmath>

#include "core/blocks/formats.h"
#include "core/error.h"
#include "dca.h"

namespace dca {
namespace {

const BlockInfo& known_format(uint32_t type) {
    const BlockInfo* info = block_info(type);
    if (!info) fail(DCA_ERROR_UNSUPPORTED, "ggml_type ", type, " is not a block format this library knows");
    return *info;
}

/// Checks what dca_encode and dca_decode have in common and returns the bytes of n values.
void check_buffers(const BlockInfo& info, const float* values, size_t n, const void* blocks, size_t blocks_bytes, int32_t threads) {
    if (n > 0 && (!values || !blocks)) fail(DCA_ERROR_ARGUMENT, "values and blocks must not be NULL");
    if (threads < 0) fail(DCA_ERROR_ARGUMENT, "threads is ", threads, ", must be 0 (all cores) or more");
    if (n % info.block_size != 0)
        fail(DCA_ERROR_ARGUMENT, "n is ", n, ", must be a multiple of ", info.name, "'s block size ", info.block_size);
    const size_t n_blocks = n / info.block_size;
    if (blocks_bytes / info.block_bytes != n_blocks || blocks_bytes % info.block_bytes != 0)
        fail(DCA_ERROR_ARGUMENT, "blocks_bytes is ", blocks_bytes, ", must be ", info.block_bytes, " for each of ", n_blocks, " blocks of ",
             info.name);
    const size_t alignment = info.type == BlockType::F32 ? alignof(float) : alignof(uint16_t);
    if (reinterpret_cast<uintptr_t>(blocks) % alignment != 0)
        fail(DCA_ERROR_ARGUMENT, "blocks of ", info.name, " must be aligned to ", alignment, " bytes");
}

void encode_checked(uint32_t type, const float* values, size_t n, size_t row_length, const float* weights, int32_t threads, void* blocks,
                    size_t blocks_bytes) {
    const BlockInfo& info = known_format(type);
    if (!info.can_encode) fail(DCA_ERROR_UNSUPPORTED, "encoding to ", info.name, " is not implemented");
    check_buffers(info, values, n, blocks, blocks_bytes, threads);
    if (row_length == 0 || row_length % info.block_size != 0)
        fail(DCA_ERROR_ARGUMENT, "row_length is ", row_length, ", must be a multiple of ", info.name, "'s block size ", info.block_size);
    if (n % row_length != 0) fail(DCA_ERROR_ARGUMENT, "n is ", n, ", must be a multiple of row_length ", row_length);
    encode_rows(info.type, values, static_cast<int64_t>(n), static_cast<int64_t>(row_length), threads, static_cast<std::byte*>(blocks),
                weights);
}

}  // namespace
}  // namespace dca

extern "C" {

dca_status dca_block_format_get(uint32_t type, dca_block_format* format) {
    return dca::guarded([&] {
        if (!format) dca::fail(DCA_ERROR_ARGUMENT, "format must not be NULL");
        const dca::BlockInfo& info = dca::known_format(type);
        *format = {info.name, info.block_size, info.block_bytes, info.can_encode};
    });
}

dca_status dca_encode(uint32_t type, const float* values, size_t n, size_t row_length, int32_t threads, void* blocks, size_t blocks_bytes) {
    return dca::guarded([&] { dca::encode_checked(type, values, n, row_length, nullptr, threads, blocks, blocks_bytes); });
}

dca_status dca_encode_weighted(uint32_t type, const float* values, size_t n, size_t row_length, const float* weights, int32_t threads,
                               void* blocks, size_t blocks_bytes) {
    return dca::guarded([&] {
        if (weights == nullptr) dca::fail(DCA_ERROR_ARGUMENT, "weights is NULL");
        for (size_t c = 0; c < row_length; ++c) {
            if (!(weights[c] >= 0.0f) || std::isinf(weights[c]))
                dca::fail(DCA_ERROR_ARGUMENT, "weight ", c, " is ", weights[c], ", must be finite and 0 or more");
        }
        dca::encode_checked(type, values, n, row_length, weights, threads, blocks, blocks_bytes);
    });
}

dca_status dca_decode(uint32_t type, const void* blocks, size_t blocks_bytes, size_t n, int32_t threads, float* values) {
    return dca::guarded([&] {
        const dca::BlockInfo& info = dca::known_format(type);
        dca::check_buffers(info, values, n, blocks, blocks_bytes, threads);
        dca::decode_rows(info.type, static_cast<const std::byte*>(blocks), static_cast<int64_t>(n), threads, values);
    });
}
}
