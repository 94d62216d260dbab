#include "cuda/step/sparse_prefill.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/positions/key_ranges.h"

namespace dca::cuda {

namespace {

std::atomic<float> forced_share = -1.0f;

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

/// The same arguments for queries [begin, end) only.
PrefillArgs part_of(const PrefillArgs& slice, uint32_t begin, uint32_t end) {
    PrefillArgs part = slice;
    const uint32_t skipped = begin - slice.start;
    part.q = static_cast<const std::byte*>(slice.q) + size_t{skipped} * slice.q_stride * 2;
    part.out = static_cast<std::byte*>(slice.out) + size_t{skipped} * slice.out_stride * 2;
    part.start = begin;
    part.n_queries = end - begin;
    return part;
}

}  // namespace

void force_density(float share) noexcept { forced_share = share; }

SparsePrefill::SparsePrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const SparseMemory& memory)
    : h_(hparams),
      device_(device),
      prefill_(spec.prefill),
      scheme_(spec.scheme),
      memory_(memory),
      forced_share_(forced_share),
      host_(allocate_pinned(memory.most_filled * sizeof(FilledPage), "describing a step")),
      seen_(hparams.n_layers) {
    pages_.reserve(memory.most_filled);
}

SparsePrefill::Chosen SparsePrefill::choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept {
    // Whole blocks of 32, as they are cut at the slice's ends.
    const auto up = [](uint64_t index) { return (index + kQuarter - 1) / kQuarter * kQuarter; };
    const uint64_t begin = start >= prefill_.from ? start : up(prefill_.from);
    const uint64_t stop = end <= sparse_end ? end : sparse_end / kQuarter * kQuarter;
    if (begin >= stop || stop <= start) return {start, start};
    return {static_cast<uint32_t>(begin), static_cast<uint32_t>(stop)};
}

void SparsePrefill::begin(const Batch& batch, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) {
    PageMeans& means = *cache.means();
    std::vector<FilledPage> filled;
    pages_.clear();
    for (const Slice& slice : batch.slices) {
        const uint32_t first = slice.start / kPageTokens;
        for (uint32_t i = first; i < pages_for(slice.end()); ++i) means.set_current(slice.pages[i], false);
        if (slice.rows() == 1) continue;
        const Chosen chosen = choosing(slice.start, slice.end(), slice.sparse_end);
        if (chosen.begin == chosen.end) continue;
        // Pages that were loaded, copied or filled by steps that read no means.
        for (uint32_t i = 0; i < first; ++i) {
            if (means.current(slice.pages[i])) continue;
            pages_.push_back({i, slice.pages[i]});
            means.set_current(slice.pages[i], true);
        }
        for (uint32_t i = first; i < slice.end() / kPageTokens; ++i) filled.push_back({i, slice.pages[i]});
    }
    missing_ = pages_.size();
    pages_.insert(pages_.end(), filled.begin(), filled.end());
    if (pages_.empty()) return;
    std::ranges::copy(pages_, reinterpret_cast<FilledPage*>(host_.get()));
    check(cudaMemcpyAsync(memory_.filled, host_.get(), pages_.size() * sizeof(FilledPage), cudaMemcpyHostToDevice, stream),
          "describing a step");
    for (uint32_t layer = 0; layer < h_.n_layers; ++layer) make_means(layer, 0, missing_, shape, cache, stream);
}

void SparsePrefill::store_means(uint32_t layer, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) const {
    make_means(layer, missing_, pages_.size(), shape, cache, stream);
}

void SparsePrefill::make_means(uint32_t layer, size_t first, size_t end, const AttentionShape& shape, const CudaKvCache& cache,
                               cudaStream_t stream) const {
    if (first == end || h_.layers[layer].windowed) return;
    const MeanArgs args{
        .shape = shape,
        .scheme = scheme_,
        .cache = cache.layers()[layer],
        .pages = memory_.filled + first,
        .n_pages = static_cast<uint32_t>(end - first),
        .means = cache.means()->layer(layer),
    };
    check(mean_keys(args, stream), "taking the means of keys");
}

void SparsePrefill::end(const CudaKvCache& cache) {
    for (size_t i = missing_; i < pages_.size(); ++i) cache.means()->set_current(pages_[i].page, true);
    pages_.clear();
    missing_ = 0;
}

void SparsePrefill::attend(uint32_t layer, const PrefillArgs& slice, uint32_t sparse_end, const CudaKvCache& cache, cudaStream_t stream,
                           const std::function<void(const PrefillArgs&)>& attend) {
    if (h_.layers[layer].windowed) return attend(slice);  // layers with a window read all of it
    const uint32_t end = slice.start + slice.n_queries;
    seen_[layer] += pairs_seen(scheme_, slice.start, end);
    const Chosen chosen = choosing(slice.start, end, sparse_end);
    if (chosen.begin == chosen.end) return attend(slice);

    if (slice.start < chosen.begin) attend(part_of(slice, slice.start, chosen.begin));
    PrefillArgs part = part_of(slice, chosen.begin, chosen.end);
    const uint32_t n_blocks = select_blocks(part.start, part.n_queries, scheme_.chunk_size);
    part.lists = {memory_.blocks, memory_.pages, n_blocks, select_most_pages(chosen.end)};
    const SelectArgs args{
        .shape = part.shape,
        .scheme = part.scheme,
        .rotary = part.rotary,
        .page_table = part.page_table,
        .means = cache.means()->layer(layer),
        .q = part.q,
        .q_stride = part.q_stride,
        .dtype = part.dtype,
        .start = part.start,
        .n_queries = part.n_queries,
        .alpha = prefill_.alpha,
        .forced_share = forced_share_,
        .blocks = memory_.blocks,
        .pages = memory_.pages,
        .workspace = memory_.select,
        .unread = memory_.unread + size_t{layer} * h_.n_heads,
    };
    check(select_pages(device_.card, args, stream), "choosing pages");
    if (prefill_.record) record(layer, part.lists, stream);
    attend(part);
    if (chosen.end < end) attend(part_of(slice, chosen.end, end));
}

void SparsePrefill::record(uint32_t layer, const PageLists& lists, cudaStream_t stream) {
    std::vector<ListedBlock> blocks(size_t{h_.n_heads} * lists.n_blocks);
    std::vector<ListedPage> pages(blocks.size() * lists.most_pages);
    check(cudaMemcpyAsync(blocks.data(), lists.blocks, blocks.size() * sizeof(ListedBlock), cudaMemcpyDeviceToHost, stream),
          "recording a choice");
    check(cudaMemcpyAsync(pages.data(), lists.pages, pages.size() * sizeof(ListedPage), cudaMemcpyDeviceToHost, stream),
          "recording a choice");
    check(cudaStreamSynchronize(stream), "recording a choice");
    for (size_t number = 0; number < blocks.size(); ++number) {
        const ListedBlock& block = blocks[number];
        const std::span list(pages.data() + number * lists.most_pages, block.count);
        uint32_t begin = block.first;
        for (uint32_t quarter = 0; quarter < kQuarters; ++quarter) {
            const uint32_t rows = block.rows_of(quarter);
            if (rows == 0) continue;
            std::vector<uint32_t> words{layer, static_cast<uint32_t>(number / lists.n_blocks), begin, begin + rows, 0};
            for (const ListedPage& page : list) {
                if ((page.quarters() >> quarter & 1) != 0) words.push_back(page.page() * 4 + page.range());
            }
            words[4] = static_cast<uint32_t>(words.size() - 5);
            std::sort(words.begin() + 5, words.end());
            recorded_.push_back(std::move(words));
            begin += rows;
        }
    }
}

std::vector<uint32_t> SparsePrefill::selection() const {
    std::vector<std::vector<uint32_t>> sorted = recorded_;
    std::ranges::sort(sorted);
    std::vector<uint32_t> all;
    for (const std::vector<uint32_t>& block : sorted) all.insert(all.end(), block.begin(), block.end());
    return all;
}

void SparsePrefill::density(std::span<float> out) const {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    std::vector<unsigned long long> unread(size_t{h_.n_layers} * h_.n_heads);
    check(cudaMemcpy(unread.data(), memory_.unread, unread.size() * sizeof(unread[0]), cudaMemcpyDeviceToHost), "reading what was read");
    for (size_t i = 0; i < out.size(); ++i) {
        const uint64_t seen = seen_[i / h_.n_heads];
        out[i] = seen == 0 ? NAN : static_cast<float>(static_cast<double>(seen - unread[i]) / static_cast<double>(seen));
    }
}

}  // namespace dca::cuda

extern "C" __attribute__((visibility("default"))) void dca_cuda_force_density(float share) { dca::cuda::force_density(share); }
