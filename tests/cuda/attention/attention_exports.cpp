// The attention kernels under C names, for the Python beside this file.
#include "cuda/attention/attention.h"
#include "cuda/sparse/select_pages.h"
#include "cuda/sparse/stated/choose_lines.h"

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
size_t dca_prefill_pieces_bytes(const AttentionShape* shape, const dca::Scheme* scheme, uint32_t context, uint32_t n_queries,
                                size_t dequantized) {
    return prefill_pieces_bytes(card(), *shape, *scheme, context, n_queries, dequantized);
}
uint32_t dca_decode_group_rows(const AttentionShape* shape, int32_t cache) {
    return decode_group_rows(card(), *shape, static_cast<dca::CacheType>(cache));
}
size_t dca_decode_workspace_bytes(const AttentionShape* shape, uint32_t rows) { return decode_workspace_bytes(card(), *shape, rows); }

int dca_mean_keys(const MeanArgs* args, cudaStream_t stream) { return mean_keys(*args, stream); }
int dca_select_pages(const SelectArgs* args, cudaStream_t stream) { return select_pages(card(), *args, stream); }
uint32_t dca_select_blocks(uint32_t start, uint32_t n_queries, uint32_t chunk_size) { return select_blocks(start, n_queries, chunk_size); }
uint32_t dca_select_most_pages(uint32_t context) { return select_most_pages(context); }
size_t dca_select_workspace_bytes(const dca::Scheme* scheme, uint32_t context) { return select_workspace_bytes(card(), *scheme, context); }

int dca_choose_lines(const LineArgs* args, cudaStream_t stream) { return choose_lines(card(), *args, stream); }
uint32_t dca_line_words(uint32_t context) { return line_words(context); }
size_t dca_line_workspace_bytes(const AttentionShape* shape, uint32_t context, uint32_t last_queries, uint32_t heads) {
    return line_workspace_bytes(*shape, context, last_queries, heads);
}

/// Sizes of the argument structs, so that the caller can check its own declarations.
size_t dca_struct_bytes(int which) {
    constexpr size_t kBytes[] = {sizeof(PrefillArgs), sizeof(DecodeArgs), sizeof(StoreArgs),
                                 sizeof(MeanArgs),    sizeof(SelectArgs), sizeof(LineArgs)};
    return kBytes[which];
}
}
