// A mixture of experts: every token's feed-forward is done by the few experts its router picks.
#include "core/error.h"
#include "cpu/executor.h"

namespace dca::cpu {

void CpuExecutor::feed_forward_experts(uint32_t) { fail(DCA_ERROR_UNSUPPORTED, "mixtures of experts do not run on the CPU backend yet"); }

}  // namespace dca::cpu
