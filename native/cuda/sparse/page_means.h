// The mean keys of a cache's full pages, for sparse prefill, and which of them are those of the keys that lie there.
#pragma once

#include <cstdint>
#include <vector>

#include "core/hparams.h"
#include "cuda/device/resources.h"
#include "cuda/sparse/select_pages.h"

namespace dca::cuda {

class PageMeans {
public:
    PageMeans(const Hparams& h, uint32_t pages)
        : layer_values_(size_t{pages} * page_values(h)),
          page_bytes_(page_bytes(h)),
          memory_(allocate_device(pages * page_bytes_, "allocating the means of pages")),
          current_(pages) {}

    /// What a page takes, of all layers.
    static uint64_t page_bytes(const Hparams& h) noexcept { return uint64_t{h.n_layers} * page_values(h) * sizeof(__half); }
    uint64_t page_bytes() const noexcept { return page_bytes_; }

    /// (pages, n_kv_heads, kPageSides, head_dim) of a layer.
    __half* layer(uint32_t layer) const noexcept { return reinterpret_cast<__half*>(memory_.get()) + layer * layer_values_; }

    /// Whether the page's means are those of its keys. Whatever writes keys into it ends that.
    bool current(uint32_t page) const noexcept { return current_[page] != 0; }
    void set_current(uint32_t page, bool current) noexcept { current_[page] = current ? 1 : 0; }

private:
    static uint64_t page_values(const Hparams& h) noexcept { return uint64_t{h.n_kv_heads} * kPageSides * h.head_dim; }

    size_t layer_values_;
    uint64_t page_bytes_;
    DeviceMemory memory_;
    std::vector<uint8_t> current_;  // by page
};

}  // namespace dca::cuda
