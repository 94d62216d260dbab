#include "cuda/attention/prefill/dequantized.h"
#include "cuda/attention/prefill/sm90_launch.cuh"

namespace dca::cuda {

bool prefill_sm90_takes(const Card& card, const PrefillArgs& args) {
#if defined(DCA_CUDA_SM90A)
    return card.compute_capability == 90 && fast_shape(args) && args.shape.head_dim <= 128 &&
           (args.cache.type != CacheType::Q8 || dequantizing_pays(card, args)) &&
           (args.cache.type != CacheType::Q4 || has_room_to_dequantize(args) || has_room_for_pieces(card, args));
#else
    static_cast<void>(card), static_cast<void>(args);
    return false;  // built without machine code for sm_90a
#endif
}

bool prefill_sm90_takes_pieces(const Card& card, const AttentionShape& shape, const Scheme& scheme) {
#if defined(DCA_CUDA_SM90A)
    return card.compute_capability == 90 && fast_shape(shape, {}, scheme) && shape.head_dim <= 128 && !scheme.intra_only && !scheme.moves();
#else
    static_cast<void>(card), static_cast<void>(shape), static_cast<void>(scheme);
    return false;
#endif
}

cudaError_t launch_prefill_sm90(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    if (holds_codes(args.cache.type)) return launch_prefill_dequantized(card, args, launch_prefill_sm90, stream);
    switch (variant_of(args)) {
        case Variant::Plain: return sm90::launch_variant<Variant::Plain>(card, args, stream);
        case Variant::Windowed: return sm90::launch_variant<Variant::Windowed>(card, args, stream);
        case Variant::Capped: return sm90::launch_variant<Variant::Capped>(card, args, stream);
        case Variant::Listed: return sm90::launch_variant<Variant::Listed>(card, args, stream);
    }
    return cudaErrorInvalidValue;
}

}  // namespace dca::cuda
