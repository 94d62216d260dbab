#include "cuda/step/sparse_prefill.h"

#include <algorithm>
#include <atomic>

namespace dca::cuda {

namespace {

std::atomic<float> forced_share = -1.0f;

}  // namespace

void force_density(float share) noexcept { forced_share = share; }

SparsePrefill::SparsePrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const SparseMemory& memory)
    : PrefillChoice(hparams, device, spec, memory.lists),
      memory_(memory),
      forced_share_(forced_share),
      host_(allocate_pinned(memory.most_filled * sizeof(FilledPage), "describing a step")) {
    pages_.reserve(memory.most_filled);
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

void SparsePrefill::stored(uint32_t layer, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) const {
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

void SparsePrefill::attend_chosen(uint32_t layer, const PrefillArgs& chosen, const CudaKvCache& cache, cudaStream_t stream,
                                  const Attend& attend) {
    PrefillArgs part = chosen;
    part.lists = lists_of(part);
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
        .blocks = memory_.lists.blocks,
        .pages = memory_.lists.pages,
        .workspace = memory_.select,
        .unread = unread(layer),
    };
    check(select_pages(device_.card, args, stream), "choosing pages");
    if (prefill_.record) record(layer, part.lists, stream);
    attend(part);
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
            keep(std::move(words));
            begin += rows;
        }
    }
}

}  // namespace dca::cuda

extern "C" __attribute__((visibility("default"))) void dca_cuda_force_density(float share) { dca::cuda::force_density(share); }
