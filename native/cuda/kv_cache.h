// The cache of one sequence on a card, as core/backend/backend.h has it: its pages follow each other.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/backend/backend.h"
#include "cuda/session.h"

namespace dca::cuda {

class CudaKvCache final : public KvCache {
public:
    explicit CudaKvCache(std::shared_ptr<CudaSession> session) : session_(std::move(session)) {}

    uint64_t bytes() const override { return session_->memory.cache_bytes; }
    void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) override;

    std::string layout() const override;
    uint64_t page_bytes() const override;
    void save_page(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_page(uint32_t page, const std::byte* in) override;

private:
    /// Calls visit(device memory of a page's first token, bytes of a token, tokens of it) for all that a page consists of.
    template <class Visit>
    void visit_page(uint32_t page, Visit visit) const;

    std::shared_ptr<CudaSession> session_;
};

}  // namespace dca::cuda
