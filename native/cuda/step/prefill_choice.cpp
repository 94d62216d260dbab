#include "cuda/step/prefill_choice.h"

#include <algorithm>
#include <cmath>

#include "core/positions/key_ranges.h"

namespace dca::cuda {

namespace {

/// Pairs of a query at [begin, end) and a key that it sees.
uint64_t pairs_seen(const Scheme& scheme, uint32_t begin, uint32_t end) {
    uint64_t pairs = 0;
    for (uint64_t at = begin; at < end;) {
        const auto chunk = static_cast<uint32_t>(at / scheme.chunk_size);
        const uint64_t stop = std::min<uint64_t>(end, (uint64_t{chunk} + 1) * scheme.chunk_size);
        const uint64_t rows = stop - at, before = at - first_key(scheme, chunk);
        pairs += rows * before + rows * (rows + 1) / 2;
        at = stop;
    }
    return pairs;
}

}  // namespace

PrefillArgs part_of(const PrefillArgs& slice, uint32_t begin, uint32_t end) {
    PrefillArgs part = slice;
    const uint32_t skipped = begin - slice.start;
    part.q = static_cast<const std::byte*>(slice.q) + size_t{skipped} * slice.q_stride * 2;
    part.out = static_cast<std::byte*>(slice.out) + size_t{skipped} * slice.out_stride * 2;
    part.start = begin;
    part.n_queries = end - begin;
    part.n_behind = slice.start + slice.n_queries + slice.n_behind - end;  // all of a step's keys are stored first
    return part;
}

PrefillChoice::PrefillChoice(const Hparams& hparams, const Device& device, const EngineSpec& spec, const ListMemory& memory)
    : h_(hparams), device_(device), prefill_(spec.prefill), scheme_(spec.scheme), memory_(memory), seen_(hparams.n_layers) {}

void PrefillChoice::begin(const Batch&, const AttentionShape&, const CudaKvCache&, cudaStream_t) {}
void PrefillChoice::stored(uint32_t, const AttentionShape&, const CudaKvCache&, cudaStream_t) const {}
void PrefillChoice::end(const CudaKvCache&) {}

PrefillChoice::Chosen PrefillChoice::choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept {
    // Whole blocks of 32, as they are cut at the slice's ends.
    const auto up = [](uint64_t index) { return (index + kQuarter - 1) / kQuarter * kQuarter; };
    const uint64_t begin = start >= prefill_.from ? start : up(prefill_.from);
    const uint64_t stop = end <= sparse_end ? end : sparse_end / kQuarter * kQuarter;
    if (begin >= stop || stop <= start) return {start, start};
    return {static_cast<uint32_t>(begin), static_cast<uint32_t>(stop)};
}

void PrefillChoice::attend(uint32_t layer, const PrefillArgs& slice, uint32_t sparse_end, const CudaKvCache& cache, cudaStream_t stream,
                           const Attend& attend) {
    if (h_.layers[layer].windowed) return attend(slice);  // layers with a window read all of it
    const uint32_t end = slice.start + slice.n_queries;
    seen_[layer] += pairs_seen(scheme_, slice.start, end);
    const Chosen chosen = choosing(slice.start, end, sparse_end);
    if (chosen.begin == chosen.end) return attend(slice);
    if (slice.start < chosen.begin) attend(part_of(slice, slice.start, chosen.begin));
    attend_chosen(layer, part_of(slice, chosen.begin, chosen.end), cache, stream, attend);
    if (chosen.end < end) attend(part_of(slice, chosen.end, end));
}

PageLists PrefillChoice::lists_of(const PrefillArgs& part) const {
    const uint32_t n_blocks = select_blocks(part.start, part.n_queries, part.scheme.chunk_size);
    return {memory_.blocks, memory_.pages, n_blocks, select_most_pages(part.start + part.n_queries)};
}

std::vector<uint32_t> PrefillChoice::selection() const {
    std::vector<std::vector<uint32_t>> sorted = recorded_;
    std::ranges::sort(sorted);
    std::vector<uint32_t> all;
    for (const std::vector<uint32_t>& block : sorted) all.insert(all.end(), block.begin(), block.end());
    return all;
}

void PrefillChoice::density(std::span<float> out) const {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    std::vector<unsigned long long> unread(size_t{h_.n_layers} * h_.n_heads);
    check(cudaMemcpy(unread.data(), memory_.unread, unread.size() * sizeof(unread[0]), cudaMemcpyDeviceToHost), "reading what was read");
    for (size_t i = 0; i < out.size(); ++i) {
        const uint64_t seen = seen_[i / h_.n_heads];
        out[i] = seen == 0 ? NAN : static_cast<float>(static_cast<double>(seen - unread[i]) / static_cast<double>(seen));
    }
}

}  // namespace dca::cuda
