#include "cuda/attention/prefill/dequantized.h"
#include "cuda/attention/prefill/sm80_launch.cuh"

namespace dca::cuda {

cudaError_t launch_prefill_sm80(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    if (args.cache.type == CacheType::Q4) return launch_prefill_dequantized(card, args, launch_prefill_sm80, stream);
    switch (variant_of(args)) {
        case Variant::Plain: return sm80::launch_variant<Variant::Plain>(card, args, stream);
        case Variant::Windowed: return sm80::launch_variant<Variant::Windowed>(card, args, stream);
        case Variant::Capped: return sm80::launch_variant<Variant::Capped>(card, args, stream);
        case Variant::Listed: return sm80::launch_variant<Variant::Listed>(card, args, stream);
    }
    return cudaErrorInvalidValue;
}

}  // namespace dca::cuda
