// A dca_sampling as the library takes it: checked, with what its spans point to.
#pragma once

#include <span>
#include <vector>

#include "core/backend/sampling.h"
#include "dca.h"

namespace dca {

/// One use of a caller's dca_sampling. Stays where it is while its request is in use.
class SamplingCall {
public:
    /// For the token after `held` and then `fed`. Throws an argument error for a field out of its range. The likeliest tokens go
    /// to the `index`-th place that the sampling has for them.
    SampleRequest request(const dca_sampling& sampling, std::span<const int32_t> held, std::span<const int32_t> fed, uint32_t n_vocab,
                          size_t index = 0);

    /// The answer, once the request has one; the likeliest tokens go where the caller wants them.
    dca_choice answer(const SampleRequest& request) const;

private:
    void count(std::span<const int32_t> held, std::span<const int32_t> fed, uint32_t window);

    std::vector<TokenCount> occurring_;
    std::vector<TokenBias> biases_;
    dca_token_value* top_ = nullptr;
};

}  // namespace dca
