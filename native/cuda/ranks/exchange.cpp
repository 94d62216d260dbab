#include "cuda/ranks/exchange.h"

#include <atomic>
#include <utility>

#include "core/error.h"

namespace dca::cuda {

CudaExchange::CudaExchange(std::vector<uint32_t> vocabulary, std::vector<int> cards, SumWay way)
    : Exchange(std::move(vocabulary)),
      cards_(std::move(cards)),
      way_(way),
      parts_(ranks()),
      tables_(ranks()),
      waits_(ranks()),
      come_(ranks()),
      given_up_(allocate_pinned(sizeof(uint32_t), "connecting the cards")) {
    *reinterpret_cast<uint32_t*>(given_up_.get()) = 0;
}

CudaExchange::~CudaExchange() = default;

void CudaExchange::join(uint32_t rank, Part part) {
    parts_[rank] = std::move(part);
    if (way_ != SumWay::Streams) return;
    for (Event& event : come_[rank]) event = make_event();
}

void CudaExchange::connect() {
    for (uint32_t rank = 0; rank < ranks(); ++rank) {
        RankTable& table = tables_[rank];
        table.rank = rank;
        table.ranks = ranks();
        table.one_card = ranks() > 1 && cards_[0] == cards_[1];
        table.given_up = reinterpret_cast<uint32_t*>(given_up_.get());
        for (uint32_t other = 0; other < ranks(); ++other) table.of[other] = parts_[other].memory;
        if (way_ != SumWay::Nccl) continue;
        // What NCCL has summed is added as if there was one rank.
        table.rank = 0;
        table.ranks = 1;
        table.of[0] = parts_[rank].memory;
    }
    if (way_ == SumWay::Nccl) communicators_ = make_communicators(cards_);
}

void CudaExchange::await_others(uint32_t rank, cudaStream_t stream) {
    const uint32_t number = ++waits_[rank], turn = number % 2;
    if (way_ == SumWay::Kernels) {
        check(signal_others(tables_[rank], number, stream), "summing over the cards");
        meet();
        return check(cuda::await_others(tables_[rank], number, stream), "summing over the cards");
    }
    check(cudaEventRecord(come_[rank][turn].get(), stream), "summing over the cards");
    meet();
    for (uint32_t other = 0; other < ranks(); ++other) {
        if (other != rank) check(cudaStreamWaitEvent(stream, come_[other][turn].get()), "summing over the cards");
    }
}

void CudaExchange::sum(const Card& card, uint32_t rank, SumArgs args, bool recorded, cudaStream_t stream) {
    args.waits = recorded && way_ == SumWay::Kernels;
    if (way_ == SumWay::Nccl)
        sum_by_nccl(communicators_[rank], parts_[rank].memory.partial[static_cast<uint32_t>(args.partial)], args.n, NcclType::F32, stream);
    else if (!args.waits)
        await_others(rank, stream);
    check(sum_ranks(card, tables_[rank], args, stream), "summing over the cards");
}

void CudaExchange::mail(uint32_t rank, Partial partial, Dtype dtype, uint64_t first, uint64_t n, cudaStream_t stream) {
    const auto buffer = static_cast<uint32_t>(partial);
    std::byte* from = parts_[rank].memory.partial[buffer] + 2 * first;
    if (way_ == SumWay::Nccl)
        return sum_by_nccl(communicators_[rank], from, n, dtype == Dtype::F16 ? NcclType::F16 : NcclType::BF16, stream);
    for (uint32_t other = 0; other < ranks(); ++other) {
        if (other == rank) continue;
        const RankMemory& there = parts_[other].memory;
        std::byte* to = there.inbox[buffer] + inbox_place(rank, other) * there.inbox_bytes + 2 * first;
        check(cudaMemcpyAsync(to, from, 2 * n, cudaMemcpyDefault, stream), "summing over the cards");
    }
}

void CudaExchange::sum_and_norm(const Card& card, uint32_t rank, SumNormArgs args, bool recorded, cudaStream_t stream) {
    args.mailed = mails(args.norm.rows);
    if (recorded && way_ == SumWay::Kernels) return check(push_and_norm(card, tables_[rank], args, stream), "summing over the cards");
    if (way_ != SumWay::Nccl) await_others(rank, stream);
    check(add_and_norm(tables_[rank], args, stream), "summing over the cards");
}

float* CudaExchange::gather_logits(uint32_t rank, const float* logits, uint32_t rows, cudaStream_t stream) {
    const size_t columns = first_token(rank + 1) - first_token(rank), width = columns * sizeof(float);
    for (uint32_t other = 0; other < ranks(); ++other) {
        const uint32_t first = first_row(other, rows), count = first_row(other + 1, rows) - first;
        if (count == 0) continue;
        check(cudaMemcpy2DAsync(parts_[other].whole_logits + first_token(rank), n_vocab() * sizeof(float), logits + first * columns, width,
                                width, count, cudaMemcpyDefault, stream),
              "gathering logits");
    }
    check(cudaEventRecord(parts_[rank].logits_sent, stream), "gathering logits");
    meet();
    for (uint32_t other = 0; other < ranks(); ++other) {
        if (other != rank) check(cudaStreamWaitEvent(stream, parts_[other].logits_sent), "gathering logits");
    }
    return parts_[rank].whole_logits;
}

void CudaExchange::settle() noexcept {
    // What fails here is said to the engine whose step it was.
    for (const Part& part : parts_) {
        for (const cudaStream_t stream : part.streams) static_cast<void>(cudaStreamSynchronize(stream));
    }
}

void CudaExchange::check_patience() const {
    if (std::atomic_ref(*reinterpret_cast<uint32_t*>(given_up_.get())).load() == kWaitedTooLong)
        fail(DCA_ERROR_DEVICE, "a card waited in vain for another; what it computed is void");
}

void CudaExchange::abort() noexcept {
    Exchange::abort();
    std::atomic_ref(*reinterpret_cast<uint32_t*>(given_up_.get())).store(1);
    for (Communicator& communicator : communicators_) abort_communicator(communicator);
}

void CudaExchange::reset() {
    for (uint32_t rank = 0; rank < ranks(); ++rank) {
        check(cudaSetDevice(cards_[rank]), "selecting the card");
        for (const cudaStream_t stream : parts_[rank].streams) check(cudaStreamSynchronize(stream), "ending a step that failed");
    }
    for (uint32_t rank = 0; rank < ranks(); ++rank) {
        check(cudaSetDevice(cards_[rank]), "selecting the card");
        const cudaStream_t stream = parts_[rank].streams.front();
        check(parts_[rank].memory.clear(parts_[rank].sizes, stream), "ending a step that failed");
        check(cudaStreamSynchronize(stream), "ending a step that failed");
    }
    waits_.assign(ranks(), 0);
    if (way_ == SumWay::Nccl) communicators_ = make_communicators(cards_);
    std::atomic_ref(*reinterpret_cast<uint32_t*>(given_up_.get())).store(0);
    Exchange::reset();
}

bool let_peers_reach(const std::vector<int>& cards) {
    for (const int card : cards) {
        for (const int other : cards) {
            if (other == card) continue;
            int reaches = 0;
            check(cudaDeviceCanAccessPeer(&reaches, card, other), "asking whether cards reach each other");
            if (reaches == 0) return false;
            check(cudaSetDevice(card), "selecting the card");
            const cudaError_t status = cudaDeviceEnablePeerAccess(other, 0);
            static_cast<void>(cudaGetLastError());  // another model of the process may have done it before
            if (status != cudaErrorPeerAccessAlreadyEnabled) check(status, "letting cards reach each other");
        }
    }
    return true;
}

}  // namespace dca::cuda
