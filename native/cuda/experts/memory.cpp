#include "cuda/experts/memory.h"

#include <algorithm>

#include "cuda/experts/order.h"
#include "cuda/weights/weights.h"

namespace dca::cuda {

uint32_t ExpertMemory::product_rows(uint32_t block) { return block + most_padding(block); }

void ExpertMemory::place(Arena& scratch, const Hparams& h, uint32_t block) {
    const size_t used = h.n_experts_used, rows = product_rows(block);
    logits = scratch.take<float>(size_t{router_rows(h.n_experts)} * block);
    factors = scratch.take<float>(block);
    chosen = scratch.take<uint32_t>(used * block);
    weights = scratch.take<float>((used + 1) * block);
    pairs = scratch.take<uint32_t>(used * block);
    places = scratch.take<uint32_t>(used * block);
    gathered = scratch.take<std::byte>(2 * rows * h.n_embd);
    results = scratch.take<float>(std::max(rows, used + 1) * h.n_embd);
}

void ExpertMemory::place_host(Arena& host, const Hparams& h) { counts = host.take<uint32_t>(h.n_experts); }

}  // namespace dca::cuda
