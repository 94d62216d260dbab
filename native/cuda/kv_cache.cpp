#include "cuda/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "core/error.h"

namespace dca::cuda {

namespace {

/// Of a token's keys or values of one head.
size_t codes_bytes(CacheType type, uint32_t head_dim) noexcept {
    return type == CacheType::Q4 ? head_dim / 2 : type == CacheType::Q8 ? head_dim : size_t{2} * head_dim;
}

/// What goes with them.
size_t scales_bytes(CacheType type) noexcept { return type == CacheType::Q4 ? 8 : type == CacheType::Q8 ? 2 : 0; }

/// Of a page's head.
size_t centre_bytes(CacheType type, uint32_t head_dim) noexcept { return type == CacheType::Q4 ? size_t{2} * head_dim : 0; }

uint64_t fine_slot_bytes(const Hparams& h) noexcept { return uint64_t{2} * h.n_layers * h.n_kv_heads * kPageTokens * (h.head_dim / 2); }

uint32_t fine_slots(uint64_t tokens, uint32_t rows, uint32_t slices) noexcept {
    return FreshPages::slots_for(pages_for(tokens), rows, slices);
}

constexpr int kNoFineCodes = 0x88;  // cuda/attention/q4_cache.cuh

}  // namespace

CacheType supported_cache(dca_cache_type type) {
    if (type == DCA_CACHE_F32) fail(DCA_ERROR_UNSUPPORTED, "cache_type is f32, must be f16, bf16, q8 or q4 on a CUDA device");
    return static_cast<CacheType>(type);
}

uint64_t CudaKvCache::bytes_for(const Hparams& h, uint64_t tokens, CacheType type, bool with_means) {
    const uint64_t token = codes_bytes(type, h.head_dim) + scales_bytes(type);
    const uint64_t head = kPageTokens * 2 * token + centre_bytes(type, h.head_dim);
    const uint64_t page = uint64_t{h.n_layers} * h.n_kv_heads * head;
    return pages_for(tokens) * (page + (with_means ? PageMeans::page_bytes(h) : 0));
}

uint64_t CudaKvCache::fine_bytes_for(const Hparams& h, uint64_t tokens, CacheType type, uint32_t rows, uint32_t slices) {
    return type == CacheType::Q4 ? fine_slots(tokens, rows, slices) * fine_slot_bytes(h) : 0;
}

CudaKvCache::CudaKvCache(const Hparams& h, const Device& device, uint32_t tokens, CacheType type, bool with_means, uint32_t rows,
                         uint32_t slices)
    : device_(device),
      n_layers_(h.n_layers),
      n_kv_heads_(h.n_kv_heads),
      head_dim_(h.head_dim),
      pages_(pages_for(tokens) + 1),
      type_(type),
      memory_(allocate_device(bytes_for(h, tokens, type) + bytes_for(h, 1, type), "allocating the cache")),
      means_(with_means ? std::make_unique<PageMeans>(h, pages_) : nullptr),
      stream_(make_stream()),
      copier_(device.ordinal) {
    if (type == CacheType::Q4) {
        fine_.slot_bytes = fine_slot_bytes(h);
        fine_.bytes = fine_bytes_for(h, tokens, type, rows, slices);
        fine_.pages = FreshPages(pages_, fine_slots(tokens, rows, slices));
        fine_.memory = allocate_device(fine_.bytes, "allocating the cache");
        fine_.slots = allocate_device(pages_ * sizeof(uint32_t), "allocating the cache");
    }
    const std::vector<Tensors> all = tensors();
    std::byte* centres = type == CacheType::Q4 ? at(all.back(), 0, 0) : nullptr;
    const size_t centre_values = size_t{h.n_kv_heads} * h.head_dim;  // of a layer
    for (uint32_t layer = 0; layer < n_layers_; ++layer) {
        const auto tensor = [&](size_t kind, size_t number) { return kind < all.size() ? at(all[kind], 2 * layer + number, 0) : nullptr; };
        const auto fine = [&](size_t number) {
            return fine_.bytes == 0 ? nullptr : fine_slot(0) + (2 * layer + number) * (fine_.slot_bytes / (2 * n_layers_));
        };
        layers_.push_back({.keys = tensor(0, 0),
                           .values = tensor(0, 1),
                           .key_scales = tensor(1, 0),
                           .value_scales = tensor(1, 1),
                           .pages = pages_,
                           .type = type_,
                           .fine_slots = reinterpret_cast<const uint32_t*>(fine_.slots.get()),
                           .fine_keys = fine(0),
                           .fine_values = fine(1),
                           .fine_stride = fine_.slot_bytes,
                           .key_centres = centres == nullptr ? nullptr : centres + layer * centre_values * sizeof(uint16_t),
                           .centre_stride = n_layers_ * centre_values});
    }
}

std::vector<CudaKvCache::Tensors> CudaKvCache::tensors() const {
    const size_t rows = size_t{n_kv_heads_} * kPageTokens, count = size_t{2} * n_layers_;
    const size_t token_bytes = codes_bytes(type_, head_dim_), scale_bytes = scales_bytes(type_);
    std::vector<Tensors> all{{0, count, token_bytes, rows * token_bytes}};
    if (scale_bytes != 0) all.push_back({count * pages_ * all.front().page_bytes, count, scale_bytes, rows * scale_bytes});
    if (const size_t bytes = n_layers_ * n_kv_heads_ * centre_bytes(type_, head_dim_); bytes != 0)
        all.push_back({all.back().offset + count * pages_ * all.back().page_bytes, 1, 0, bytes});  // of a page, not of its tokens
    return all;
}

// A page is copied whole: what lies past its tokens is not read before it is written.
void CudaKvCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) {
    const auto& other = static_cast<const CudaKvCache&>(source);
    if (means_ != nullptr) means_->set_current(to, false);
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    const std::vector<Tensors> here = tensors(), there = other.tensors();
    for (size_t kind = 0; kind < here.size(); ++kind) {
        for (size_t number = 0; number < here[kind].count; ++number) {
            check(cudaMemcpyAsync(at(here[kind], number, to), other.at(there[kind], number, from), here[kind].page_bytes,
                                  cudaMemcpyDeviceToDevice, stream_.get()),
                  "copying the cache");
        }
    }
    fine_.pages.drop(to);
    if (const uint32_t slot = other.fine_.pages.of(from); slot != FreshPages::kNone && tokens < kPageTokens) {
        fine_.moved = true;
        fine_.pages.adopt(to, [&](uint32_t taken) {
            // Perhaps from itself: the slot that was used longest ago may be the one.
            if (fine_slot(taken) == other.fine_slot(slot)) return;
            check(cudaMemcpyAsync(fine_slot(taken), other.fine_slot(slot), fine_.slot_bytes, cudaMemcpyDeviceToDevice, stream_.get()),
                  "copying the cache");
        });
    }
    check(cudaStreamSynchronize(stream_.get()), "copying the cache");  // the executor's stream does not wait for this one
}

std::string CudaKvCache::layout(const Hparams& whole) const {
    std::string type = type_ == CacheType::BF16 ? "bf16" : "f16";
    if (type_ == CacheType::Q8) type = "q8 with an f16 scale a head";
    if (type_ == CacheType::Q4) type = "q4 with an f16 scale and offset for each half of a head, keys about their page's mean";
    if (holds_codes(type_)) type += ", turned by Hadamard matrices of " + std::to_string(hadamard_size(static_cast<int>(head_dim_)));
    return "cuda, " + type + ", " + std::to_string(whole.n_layers) + " layers of " + std::to_string(whole.n_kv_heads) + " heads of " +
           std::to_string(head_dim_);
}

std::vector<PageSection> CudaKvCache::sections() const {
    const uint64_t heads = uint64_t{n_layers_} * n_kv_heads_;
    std::vector<PageSection> all;
    for (const Tensors& of : tensors()) {
        const auto a_layer = static_cast<uint32_t>(of.count == 1 ? 1 : of.count / n_layers_);
        all.push_back({a_layer, of.count * of.page_bytes / (a_layer * heads)});
    }
    return all;
}

uint64_t CudaKvCache::page_bytes() const {
    uint64_t bytes = 0;
    for (const Tensors& of : tensors()) bytes += of.count * of.page_bytes;
    return bytes;
}

void CudaKvCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    std::byte* to = out;
    for (const Tensors& of : tensors()) {
        for (size_t number = 0; number < of.count; ++number, to += of.page_bytes) {
            check(cudaMemcpyAsync(to, at(of, number, page), of.page_bytes, cudaMemcpyDeviceToHost, stream_.get()), "reading the cache");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "reading the cache");
    to = out;
    for (const Tensors& of : tensors()) {
        for (size_t head = 0; head < of.count * n_kv_heads_; ++head, to += kPageTokens * of.token_bytes) {
            std::memset(to + tokens * of.token_bytes, 0, (kPageTokens - tokens) * of.token_bytes);
        }
    }
}

std::shared_ptr<std::byte> CudaKvCache::host_memory(uint64_t bytes) const {
    ++bytes;  // what lies behind a block in memory is never taken for its next page: no copy may cross from one to another
    HostBlocks& blocks = *host_blocks_;
    const auto give_back = [kept = host_blocks_](uint64_t size, LargePinned block) {
        const std::lock_guard lock(kept->mutex);
        kept->free.emplace_back(size, std::move(block));
    };
    std::unique_lock lock(blocks.mutex);
    const auto fits = [&](const auto& block) { return block.first >= bytes && block.first / 2 <= bytes; };
    const auto found = std::ranges::find_if(blocks.free, fits);
    uint64_t size = bytes;
    LargePinned memory;
    if (found != blocks.free.end()) {
        size = found->first;
        memory = std::move(found->second);
        blocks.free.erase(found);
        lock.unlock();
    } else {
        blocks.free.reserve(++blocks.made);  // so that giving one back allocates nothing
        lock.unlock();                       // making one takes long
        check(cudaSetDevice(device_.ordinal), "selecting the card");
        memory = allocate_large_pinned(bytes, "letting a sequence sleep");
    }
    const auto unpin = memory.get_deleter();
    return {memory.release(), [give_back, size, unpin](std::byte* block) { give_back(size, LargePinned(block, unpin)); }};
}

template <class Copy>
void CudaKvCache::for_runs(std::span<const uint32_t> pages, std::span<std::byte* const> memory, Copy copy) const {
    const size_t host_stride = page_bytes();
    for (size_t first = 0, next; first < pages.size(); first = next) {
        next = first + 1;
        while (next < pages.size() && pages[next] == pages[next - 1] + 1 && memory[next] == memory[next - 1] + host_stride) ++next;
        std::byte* host = memory[first];
        for (const Tensors& of : tensors()) {
            for (size_t number = 0; number < of.count; ++number, host += of.page_bytes)
                copy(at(of, number, pages[first]), host, of.page_bytes, host_stride, next - first);
        }
    }
}

size_t CudaKvCache::pages_a_piece() const {
    constexpr size_t queued = 256;  // copies of a tensor of a page
    size_t tensors_of_page = 0;
    for (const Tensors& of : tensors()) tensors_of_page += of.count;
    return std::max<size_t>(queued / tensors_of_page, 1);
}

uint64_t CudaKvCache::start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) {
    const auto ask = [this, a_piece = pages_a_piece(), pages = std::vector(pages.begin(), pages.end()),
                      memory = std::vector(memory.begin(), memory.end())](size_t piece, cudaStream_t stream) {
        const size_t first = piece * a_piece, count = std::min(a_piece, pages.size() - first);
        for_runs(std::span(pages).subspan(first, count), std::span(memory).subspan(first, count),
                 [&](const std::byte* device, std::byte* host, size_t width, size_t host_stride, size_t height) {
                     check(cudaMemcpy2DAsync(host, host_stride, device, width, width, height, cudaMemcpyDeviceToHost, stream),
                           "letting a sequence sleep");
                 });
    };
    return copier_.start((pages.size() + pages_a_piece() - 1) / pages_a_piece(), ask);
}

uint64_t CudaKvCache::start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) {
    for (const uint32_t page : pages) {
        if (means_ != nullptr) means_->set_current(page, false);
        fine_.pages.drop(page);
    }
    const auto ask = [this, a_piece = pages_a_piece(), pages = std::vector(pages.begin(), pages.end()),
                      memory = std::vector(memory.begin(), memory.end())](size_t piece, cudaStream_t stream) {
        const size_t first = piece * a_piece, count = std::min(a_piece, pages.size() - first);
        for_runs(std::span(pages).subspan(first, count), std::span(memory).subspan(first, count),
                 [&](std::byte* device, const std::byte* host, size_t width, size_t host_stride, size_t height) {
                     check(cudaMemcpy2DAsync(device, width, host, host_stride, width, height, cudaMemcpyHostToDevice, stream),
                           "waking a sequence");
                 });
    };
    return copier_.start((pages.size() + pages_a_piece() - 1) / pages_a_piece(), ask);
}

void CudaKvCache::clear_slot(uint32_t slot, cudaStream_t stream) {
    fine_.moved = true;
    check(cudaMemsetAsync(fine_slot(slot), kNoFineCodes, fine_.slot_bytes, stream), "preparing the cache");
}

void CudaKvCache::begin(const Batch& batch, cudaStream_t stream) {
    if (fine_.bytes == 0) return;
    const Tensors centres = tensors().back();
    const auto open = [&](uint32_t page) {
        check(cudaMemsetAsync(at(centres, 0, page), 0, centres.page_bytes, stream), "preparing the cache");
    };
    fine_.pages.begin(batch, [&](uint32_t slot) { clear_slot(slot, stream); }, open);
    if (!fine_.moved) return;
    const std::vector<uint32_t>& slots = fine_.pages.by_page();
    // From memory that is not pinned: it has been read when this returns.
    check(cudaMemcpyAsync(fine_.slots.get(), slots.data(), slots.size() * sizeof(uint32_t), cudaMemcpyHostToDevice, stream),
          "preparing the cache");
    fine_.moved = false;
}

std::vector<FreshPages::Filled> CudaKvCache::filled() const {
    std::vector<FreshPages::Filled> pages;
    fine_.pages.end([&](FreshPages::Filled filled) { pages.push_back(filled); });
    return pages;
}

PageSection CudaKvCache::tail_section() const { return {2, size_t{kPageTokens} * (head_dim_ / 2)}; }

void CudaKvCache::save_tail(uint32_t page, uint32_t tokens, std::byte* out) const {
    std::memset(out, kNoFineCodes, fine_.slot_bytes);
    const uint32_t slot = fine_.pages.of(page);
    if (slot == FreshPages::kNone) return;
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    check(cudaMemcpyAsync(out, fine_slot(slot), fine_.slot_bytes, cudaMemcpyDeviceToHost, stream_.get()), "reading the cache");
    check(cudaStreamSynchronize(stream_.get()), "reading the cache");
    const size_t head = size_t{kPageTokens} * (head_dim_ / 2), held = size_t{tokens} * (head_dim_ / 2);
    for (uint64_t at = 0; at < fine_.slot_bytes; at += head) std::memset(out + at + held, kNoFineCodes, head - held);
}

void CudaKvCache::load_tail(uint32_t page, const std::byte* in) {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    fine_.moved = true;
    fine_.pages.adopt(page, [&](uint32_t slot) {
        check(cudaMemcpyAsync(fine_slot(slot), in, fine_.slot_bytes, cudaMemcpyHostToDevice, stream_.get()), "writing the cache");
    });
    check(cudaStreamSynchronize(stream_.get()), "writing the cache");
}

void CudaKvCache::load_page(uint32_t page, const std::byte* in) {
    if (means_ != nullptr) means_->set_current(page, false);
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    fine_.pages.drop(page);
    for (const Tensors& of : tensors()) {
        for (size_t number = 0; number < of.count; ++number, in += of.page_bytes) {
            check(cudaMemcpyAsync(at(of, number, page), in, of.page_bytes, cudaMemcpyHostToDevice, stream_.get()), "writing the cache");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "writing the cache");
}

}  // namespace dca::cuda
