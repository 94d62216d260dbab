#include "cuda/step/stated_prefill.h"

#include <algorithm>
#include <vector>

namespace dca::cuda {

StatedPrefill::StatedPrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const LineMemory& memory)
    : PrefillChoice(hparams, device, spec, memory.lists),
      memory_(memory),
      rotation_{memory.radians, spec.rope.frequencies.magnitude, spec.rope.last_position} {
    const std::vector<LineBudget>& budgets = spec.prefill.stated->heads;
    const std::vector<float>& radians = spec.rope.frequencies.radians;
    const Stream stream = make_stream();
    check(cudaMemcpyAsync(memory.budgets, budgets.data(), budgets.size() * sizeof(LineBudget), cudaMemcpyHostToDevice, stream.get()),
          "preparing the work space");
    check(cudaMemcpyAsync(memory.radians, radians.data(), radians.size() * sizeof(float), cudaMemcpyHostToDevice, stream.get()),
          "preparing the work space");
    check(cudaStreamSynchronize(stream.get()), "preparing the work space");  // the executor's stream does not wait for this one
}

PrefillChoice::Chosen StatedPrefill::choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept {
    if (end - start < kFewestTogether) return {start, start};
    return PrefillChoice::choosing(start, end, sparse_end);
}

void StatedPrefill::attend_chosen(uint32_t layer, const PrefillArgs& part, const CudaKvCache&, cudaStream_t stream, const Attend& attend) {
    const uint64_t end = uint64_t{part.start} + part.n_queries;
    for (uint64_t at = part.start, next; at < end; at = next) {
        next = std::min(end, (at / scheme_.chunk_size + 1) * scheme_.chunk_size);
        PrefillArgs unit = part_of(part, static_cast<uint32_t>(at), static_cast<uint32_t>(next));
        unit.lists = lists_of(unit);
        unit.lists.lines = {memory_.columns, memory_.diagonals, memory_.words};
        const LineArgs args{
            .shape = unit.shape,
            .scheme = unit.scheme,
            .cache = unit.cache,
            .page_table = unit.page_table,
            .q = unit.q,
            .q_stride = unit.q_stride,
            .dtype = unit.dtype,
            .start = unit.start,
            .n_queries = unit.n_queries,
            .fresh_page = unit.fresh_page,
            .rotation = rotation_,
            .last_queries = prefill_.stated->last_queries,
            .budgets = memory_.budgets + size_t{layer} * h_.n_heads,
            .columns = memory_.columns,
            .diagonals = memory_.diagonals,
            .words = memory_.words,
            .blocks = memory_.lists.blocks,
            .pages = memory_.lists.pages,
            .workspace = memory_.workspace,
            .workspace_bytes = memory_.workspace_bytes,
            .unread = unread(layer),
        };
        check(choose_lines(device_.card, args, stream), "choosing columns and diagonals");
        if (prefill_.record) record(layer, unit, stream);
        attend(unit);
    }
}

void StatedPrefill::record(uint32_t layer, const PrefillArgs& unit, cudaStream_t stream) {
    const uint32_t end = unit.start + unit.n_queries;
    const size_t words = size_t{h_.n_heads} * memory_.words;
    std::vector<uint32_t> columns(words), diagonals(words);
    check(cudaMemcpyAsync(columns.data(), memory_.columns, words * sizeof(uint32_t), cudaMemcpyDeviceToHost, stream), "recording a choice");
    check(cudaMemcpyAsync(diagonals.data(), memory_.diagonals, words * sizeof(uint32_t), cudaMemcpyDeviceToHost, stream),
          "recording a choice");
    check(cudaStreamSynchronize(stream), "recording a choice");
    for (uint32_t head = 0; head < h_.n_heads; ++head) {
        std::vector<uint32_t> kept{layer, head, unit.start, end, 0};
        const auto add = [&](const std::vector<uint32_t>& bits, uint32_t lowest) {
            for (uint32_t line = 0; line < end; ++line) {
                const uint32_t bit = line + kLineMargin;
                if ((bits[size_t{head} * memory_.words + bit / 32] >> bit % 32 & 1) != 0) kept.push_back(2 * line + lowest);
            }
        };
        add(columns, 0);
        add(diagonals, 1);
        kept[4] = static_cast<uint32_t>(kept.size() - 5);
        keep(std::move(kept));
    }
}

}  // namespace dca::cuda
