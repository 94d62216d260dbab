// The attention kernels under C names, for the Python beside this file.
#include "cuda/attention/attention.h"

using namespace dca::cuda;

namespace {

/// The card that is current at the first call.
const Card& card() {
    static const Card described = [] {
        Card card;
        int ordinal = 0;
        if (cudaGetDevice(&ordinal) == cudaSuccess) static_cast<void>(describe_card(ordinal, card));
        return card;  // of capability 0 where there is none: no kernel takes it
    }();
    return described;
}

}  // namespace

extern "C" {

int dca_attention_prefill(const PrefillArgs* args, cudaStream_t stream) { return attention_prefill(card(), *args, stream); }
int dca_attention_decode(const DecodeArgs* args, cudaStream_t stream) { return attention_decode(card(), *args, stream); }
int dca_store_keys_values(const StoreArgs* args, cudaStream_t stream) { return store_keys_values(card(), *args, stream); }
size_t dca_prefill_workspace_bytes(const AttentionShape* shape, uint32_t context, int32_t kv_heads) {
    return prefill_workspace_bytes(*shape, context, kv_heads);
}
uint32_t dca_decode_group_rows(const AttentionShape* shape) { return decode_group_rows(card(), *shape); }
size_t dca_decode_workspace_bytes(const AttentionShape* shape, uint32_t rows) { return decode_workspace_bytes(card(), *shape, rows); }

/// Sizes of the three argument structs, so that the caller can check its own declarations.
size_t dca_struct_bytes(int which) { return which == 0 ? sizeof(PrefillArgs) : which == 1 ? sizeof(DecodeArgs) : sizeof(StoreArgs); }
}
