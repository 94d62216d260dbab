#include "cuda/linear/matvec_launch.cuh"

namespace dca::cuda {
namespace {

struct Single {
    template <class W, int kSteps>
    static auto get() {
        return vec::matvec_kernel<W, kSteps>;
    }
};

}  // namespace

cudaError_t matvec(const Card& card, const MatvecArgs& args, cudaStream_t stream) {
    return vec::launch_fitting<Single>(card, args.w, 1, args, stream);
}

bool matvec_takes(const Card& card, const Matrix& w) {
    bool takes = false;
    vec::visit_reader(w.format, [&](auto reader) {
        using W = decltype(reader);
        const uint32_t multiple = W::kUnits == 0 ? 8 : kUnit;
        takes = w.cols % multiple == 0 && vec::shared_bytes<W>(w.cols, vec::kFewestSteps) + vec::kStaticBytes <= card.shared_bytes;
    });
    return takes;
}

}  // namespace dca::cuda
