// The matrices of a token's experts, each times its vector: a row of the grid is an expert, whose blocks
// find in device memory which one it is and then do what matvec does.
#include "cuda/linear/matvec_launch.cuh"

namespace dca::cuda {
namespace {

struct ExpertProducts {
    MatvecArgs first;
    const uint32_t* experts;
    OwnExperts own;
    PlaneBytes w_apart;  // bytes between what belongs to two matrices or two choices
    uint64_t x_apart, y_apart;
    uint32_t bias_apart;  // values
};

__device__ __forceinline__ void* moved(void* from, uint64_t bytes) { return static_cast<uint8_t*>(from) + bytes; }

template <class W, int kSteps>
__global__ void __launch_bounds__(vec::kThreads, 1) matvec_experts_kernel(const __grid_constant__ ExpertProducts products) {
    extern __shared__ __align__(16) uint8_t shared[];
    let_next_start();
    await_previous();  // no weight can be fetched before the router has chosen
    const uint32_t choice = blockIdx.y;
    const uint32_t chosen = __ldcg(products.experts + choice);
    if (!products.own.hold(chosen)) return;
    const uint64_t expert = chosen - products.own.first;
    MatvecArgs args = products.first;
    args.w.low = moved(args.w.low, expert * products.w_apart.low);
    if constexpr (W::kHighBytes > 0) args.w.high = moved(args.w.high, expert * products.w_apart.high);
    if constexpr (W::kScaleBytes > 0) args.w.scales = moved(args.w.scales, expert * products.w_apart.scales);
    args.x = static_cast<const uint8_t*>(args.x) + choice * products.x_apart;
    args.y = moved(args.y, choice * products.y_apart);
    if (args.bias != nullptr) args.bias += expert * products.bias_apart;
    args.add = false;
    args.kv.keys = nullptr;
    vec::multiply<W, kSteps>(args, shared, [] {});
}

struct Chosen {
    template <class W, int kSteps>
    static auto get() {
        return matvec_experts_kernel<W, kSteps>;
    }
};

uint64_t value_bytes(VectorType type) { return type == VectorType::F32 ? 4 : 2; }

}  // namespace

cudaError_t matvec_experts(const Card& card, const ExpertMatvecArgs& args, cudaStream_t stream) {
    const Matrix& w = args.first.w;
    const ExpertProducts products{
        .first = args.first,
        .experts = args.experts,
        .own = args.own,
        .w_apart = plane_bytes(w.format, w.rows, w.cols),
        .x_apart = args.x_apart * value_bytes(args.first.x_type),
        .y_apart = args.y_apart * value_bytes(args.first.y_type),
        .bias_apart = args.bias_apart,
    };
    return vec::launch_fitting<Chosen>(card, w, args.n_chosen, products, stream);
}

}  // namespace dca::cuda
