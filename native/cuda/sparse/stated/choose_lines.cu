#include "cuda/sparse/stated/choose_lines.h"

#include <algorithm>

#include "cuda/attention/kernels.h"
#include "cuda/sparse/stated/work.h"

namespace dca::cuda {
namespace {

/// Places in the work space, or over a null base what they take.
size_t place(lines::Work& work, std::byte* base) {
    size_t bytes = 0;
    const auto take = [&]<class T>(T*& part, size_t count) {
        part = reinterpret_cast<T*>(base + bytes);
        bytes += (count * sizeof(T) + 255) / 256 * 256;
    };
    const lines::Cut& cut = work.cut;
    const size_t lanes = cut.lanes, head_dim = work.args.shape.head_dim, heads = work.heads;
    take(work.rotations, 3 * lanes * (head_dim / 2));
    take(work.queries, heads * 3 * lanes * head_dim);
    take(work.softmax, heads * lanes * cut.splits);
    take(work.merged, heads * lanes);
    take(work.columns, heads * cut.n_keys());
    take(work.diagonals, heads * cut.n_keys());
    take(work.parts, heads * cut.splits * (lines::kSplit + lanes));
    return bytes;
}

lines::Work work_of(const LineArgs& args, const lines::Cut& cut, uint32_t heads) {
    const uint32_t chunk = args.start / args.scheme.chunk_size;
    return {args, cut, chunk, range_count(args.scheme, chunk), 0, heads, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}

}  // namespace

size_t line_workspace_bytes(const AttentionShape& shape, uint32_t context, uint32_t last_queries, uint32_t heads) {
    LineArgs args{};
    args.shape = shape;
    lines::Work work = work_of(args, lines::Cut(0, context, last_queries), heads);
    return place(work, nullptr);
}

cudaError_t choose_lines(const Card& card, const LineArgs& args, cudaStream_t stream) {
    if (card.compute_capability < 80 || !fast_shape(args.shape)) return cudaErrorNotSupported;
    if (args.n_queries == 0 || args.last_queries == 0 || args.q_stride % 8 != 0 || args.scheme.moves()) return cudaErrorInvalidValue;
    const uint32_t end = args.start + args.n_queries, chunk = args.start / args.scheme.chunk_size;
    if ((end - 1) / args.scheme.chunk_size != chunk || args.words < line_words(end)) return cudaErrorInvalidValue;
    const lines::Cut cut(first_key(args.scheme, chunk), end, std::min(args.last_queries, args.n_queries));
    uint32_t heads = args.shape.n_heads;
    const auto bytes = [&](uint32_t some) {
        lines::Work work = work_of(args, cut, some);
        return place(work, nullptr);
    };
    while (heads > 1 && bytes(heads) > args.workspace_bytes) heads = ceil_div(heads, 2);
    if (bytes(heads) > args.workspace_bytes) return cudaErrorInvalidValue;
    for (uint32_t first = 0; first < static_cast<uint32_t>(args.shape.n_heads); first += heads) {
        lines::Work work = work_of(args, cut, std::min(heads, args.shape.n_heads - first));
        work.first_head = first;
        place(work, args.workspace);
        cudaError_t error = lines::weigh_lines(work, stream);
        if (error == cudaSuccess) error = lines::choose_heaviest(work, stream);
        if (error != cudaSuccess) return error;
    }
    return lines::list_lines(args, stream);
}

}  // namespace dca::cuda
