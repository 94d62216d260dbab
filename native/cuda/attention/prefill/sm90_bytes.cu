#include "cuda/attention/prefill/dequantized.h"
#include "cuda/attention/prefill/sm90_launch.cuh"

namespace dca::cuda {

bool prefill_sm90_takes_bytes(const Card& card, const PrefillArgs& args) {
    const Variant variant = variant_of(args);
    return args.cache.type == CacheType::Q8 && (args.shape.head_dim == 64 || args.shape.head_dim == 128) &&
           (variant == Variant::Plain || variant == Variant::Listed) && args.traits.cap == 0.0f && args.traits.sinks == nullptr &&
           prefill_sm90_takes(card, args);
}

cudaError_t launch_prefill_sm90_bytes(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    const auto attend = [](const Card& own, const PrefillArgs& part, const CodedKeys& keys, cudaStream_t on) {
        const auto launch = [&](auto head_dim) {
            return part.lists.blocks != nullptr ? sm90::launch_parts<head_dim(), __half, Variant::Listed, true>(own, part, on, keys)
                                                : sm90::launch_parts<head_dim(), __half, Variant::Plain, true>(own, part, on, keys);
        };
        return part.shape.head_dim == 64 ? launch(std::integral_constant<int, 64>{}) : launch(std::integral_constant<int, 128>{});
    };
    return launch_prefill_dequantized(card, args, false, attend, stream);
}

}  // namespace dca::cuda
