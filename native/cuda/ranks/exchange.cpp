#include "cuda/ranks/exchange.h"

#include <atomic>
#include <utility>

#include "core/error.h"

namespace dca::cuda {

CudaExchange::CudaExchange(std::vector<uint32_t> vocabulary, std::vector<int> cards, bool peers)
    : Exchange(std::move(vocabulary)),
      cards_(std::move(cards)),
      peers_(peers),
      parts_(ranks()),
      tables_(ranks()),
      given_up_(allocate_pinned(sizeof(uint32_t), "connecting the cards")) {
    *reinterpret_cast<uint32_t*>(given_up_.get()) = 0;
}

CudaExchange::~CudaExchange() = default;

void CudaExchange::join(uint32_t rank, Part part) { parts_[rank] = std::move(part); }

void CudaExchange::connect() {
    for (uint32_t rank = 0; rank < ranks(); ++rank) {
        RankTable& table = tables_[rank];
        table.rank = rank;
        table.ranks = ranks();
        table.one_card = ranks() > 1 && cards_[0] == cards_[1];
        table.given_up = reinterpret_cast<const uint32_t*>(given_up_.get());
        for (uint32_t other = 0; other < ranks(); ++other) table.of[other] = parts_[other].memory;
        if (peers_) continue;
        // What NCCL has summed is added as if there was one rank.
        table.rank = 0;
        table.ranks = 1;
        table.of[0] = parts_[rank].memory;
    }
    if (!peers_) communicators_ = make_communicators(cards_);
}

void CudaExchange::sum(const Card& card, uint32_t rank, const SumArgs& args, bool overlapped, cudaStream_t stream) {
    if (!peers_) {
        const size_t value_bytes = args.type == VectorType::F32 ? 4 : 2;
        std::byte* values = parts_[rank].memory.partial[static_cast<uint32_t>(args.partial)] + args.first * value_bytes;
        sum_by_nccl(communicators_[rank], values, args.n, args.type, stream);
    }
    check(sum_ranks(card, tables_[rank], args, overlapped && peers_, stream), "summing over the cards");
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
        check(cudaMemsetAsync(parts_[rank].memory.pushed, 0, RankMemory::signal_bytes(ranks()), stream), "ending a step that failed");
        check(cudaStreamSynchronize(stream), "ending a step that failed");
    }
    if (!peers_) communicators_ = make_communicators(cards_);
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
