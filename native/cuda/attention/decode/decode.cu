#include "cuda/attention/decode/launch.cuh"

namespace dca::cuda {

size_t decode_workspace_bytes(const Card& card, const AttentionShape& shape, uint32_t rows) {
    const decode::DecodeGrid grid = decode::decode_grid(card, shape, rows);
    return grid.tickets_bytes() + grid.softmax_bytes() + grid.parts() * shape.head_dim * sizeof(float);
}

cudaError_t launch_decode(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    switch (variant_of(args.traits, args.scheme)) {
        case Variant::Plain: return decode::launch_variant<Variant::Plain>(card, args, stream);
        case Variant::Windowed: return decode::launch_variant<Variant::Windowed>(card, args, stream);
        case Variant::Capped: return decode::launch_variant<Variant::Capped>(card, args, stream);
        case Variant::Listed: break;  // of prefill
    }
    return cudaErrorInvalidValue;
}

}  // namespace dca::cuda
