// Norms, gating, rotation and the softmax's running sums over panels.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>

#include "core/rope.h"
#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/exp2.h"

namespace dca::cpu {
namespace {

void rms_norm(const float* x, const float* weight, float* y, int features, int lanes, float epsilon) {
    if (lanes == 1) {
        F squares{};
        int i = 0;
        for (; i + kVectorWidth <= features; i += kVectorWidth) squares += load(x + i) * load(x + i);
        float total = sum_of(squares);
        for (; i < features; ++i) total += x[i] * x[i];
        const float scale = 1.0f / __builtin_sqrtf(total / features + epsilon);
        for (i = 0; i + kVectorWidth <= features; i += kVectorWidth) store(y + i, load(x + i) * splat(scale) * load(weight + i));
        for (; i < features; ++i) y[i] = x[i] * scale * weight[i];
        return;
    }
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        F squares[2] = {};
        for (int f = 0; f < features; ++f) {
            const F value = load(x + f * kPanelLanes + lane);
            squares[f % 2] += value * value;
        }
        const F mean = (squares[0] + squares[1]) / splat(static_cast<float>(features)) + splat(epsilon);
        F scale;
        for (int i = 0; i < kVectorWidth; ++i) scale[i] = 1.0f / __builtin_sqrtf(mean[i]);
        for (int f = 0; f < features; ++f) {
            const int at = f * kPanelLanes + lane;
            store(y + at, load(x + at) * scale * splat(weight[f]));
        }
    }
}

void layer_norm(const float* x, const float* weight, const float* bias, float* y, int features, int lanes, float epsilon) {
    const auto shift = [&](int f) { return bias == nullptr ? 0.0f : bias[f]; };
    if (lanes == 1) {
        double sum = 0.0, squares = 0.0;
        for (int i = 0; i < features; ++i) sum += x[i];
        const auto mean = static_cast<float>(sum / features);
        for (int i = 0; i < features; ++i) squares += double{x[i] - mean} * (x[i] - mean);
        const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(squares / features) + epsilon);
        for (int i = 0; i < features; ++i) y[i] = (x[i] - mean) * scale * weight[i] + shift(i);
        return;
    }
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        F sum{}, squares{};
        for (int f = 0; f < features; ++f) sum += load(x + f * kPanelLanes + lane);
        const F mean = sum / splat(static_cast<float>(features));
        for (int f = 0; f < features; ++f) {
            const F value = load(x + f * kPanelLanes + lane) - mean;
            squares += value * value;
        }
        const F variance = squares / splat(static_cast<float>(features)) + splat(epsilon);
        F scale;
        for (int i = 0; i < kVectorWidth; ++i) scale[i] = 1.0f / __builtin_sqrtf(variance[i]);
        for (int f = 0; f < features; ++f) {
            const int at = f * kPanelLanes + lane;
            store(y + at, (load(x + at) - mean) * scale * splat(weight[f]) + splat(shift(f)));
        }
    }
}

/// 1 / (1 + 2^-x). Beyond 2^126 the quotient is 0 all the same.
[[gnu::always_inline]] inline F sigmoid2(F x) { return splat(1.0f) / (splat(1.0f) + exp2_of(minimum(-x, splat(126.0f)))); }

// What a feed-forward makes of its gate and its up.
struct Silu {
    [[gnu::always_inline]] static F apply(F gate, F up) { return gate * sigmoid2(gate * splat(kLog2E)) * up; }
};
struct Gelu {
    /// 0.5 g (1 + tanh u) = g σ(2 u), u = sqrt(2 / π) (g + 0.044715 g³).
    [[gnu::always_inline]] static F apply(F gate, F up) {
        const F u = splat(0.7978845608f) * (gate + splat(0.044715f) * gate * gate * gate);
        return gate * sigmoid2(u * splat(2.0f * kLog2E)) * up;
    }
};
struct ClampedSwiglu {
    [[gnu::always_inline]] static F apply(F gate, F up) {
        const F limit = splat(7.0f);
        const F g = minimum(gate, limit);
        return g * sigmoid2(g * splat(1.702f * kLog2E)) * (minimum(maximum(up, -limit), limit) + splat(1.0f));
    }
};

/// x = apply(x, y), n values, a vector at a time; what is left over lies in a vector padded with zeros.
template <class Apply>
[[gnu::always_inline]] inline void map_vectors(float* x, const float* y, size_t n, Apply apply) {
    size_t i = 0;
    for (; i + kVectorWidth <= n; i += kVectorWidth) store(x + i, apply(load(x + i), load(y + i)));
    if (i == n) return;
    float left[2][kVectorWidth] = {};
    __builtin_memcpy(left[0], x + i, (n - i) * sizeof(float));
    __builtin_memcpy(left[1], y + i, (n - i) * sizeof(float));
    store(left[0], apply(load(left[0]), load(left[1])));
    __builtin_memcpy(x + i, left[0], (n - i) * sizeof(float));
}

template <class Activation>
void gate_multiply(float* gate, const float* up, size_t n) {
    map_vectors(gate, up, n, [](F g, F u) __attribute__((always_inline)) { return Activation::apply(g, u); });
}

void add_scaled(float* x, const float* y, float scale, size_t n) {
    map_vectors(x, y, n, [=](F a, F b) __attribute__((always_inline)) { return a + splat(scale) * b; });
}

void scale_and_cap(float* x, float scale, float cap, size_t n) {
    if (cap == 0.0f) {
        map_vectors(x, x, n, [=](F a, F) __attribute__((always_inline)) { return a * splat(scale); });
    } else {
        map_vectors(x, x, n, [=](F a, F) __attribute__((always_inline)) { return soft_cap(a * splat(scale), cap); });
    }
}

/// One pair of rotated rows of a panel: (a, b) -> (a cos - b sin, a sin + b cos).
[[gnu::always_inline]] inline void rotate_rows(const float* xa, const float* xb, float* ya, float* yb, const float* cos, const float* sin,
                                               const float* factor) {
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        const F a = load(xa + lane) * load(factor + lane);
        const F b = load(xb + lane) * load(factor + lane);
        const F c = load(cos + lane);
        const F s = load(sin + lane);
        store(ya + lane, a * c - b * s);
        store(yb + lane, a * s + b * c);
    }
}

void rotate(const float* x, float* y, int head_dim, int n_frequencies, RopeLayout layout, int lanes, const float* cos, const float* sin,
            const float* factor) {
    const int step = layout == RopeLayout::Interleaved ? 2 : 1;
    const int partner = layout == RopeLayout::Interleaved ? 1 : n_frequencies;
    for (int j = 0; j < n_frequencies; ++j) {
        const int a = j * step;
        const int b = a + partner;
        if (lanes == 1) {
            const float xa = x[a] * factor[0];
            const float xb = x[b] * factor[0];
            y[a] = xa * cos[j] - xb * sin[j];
            y[b] = xa * sin[j] + xb * cos[j];
        } else {
            rotate_rows(x + a * kPanelLanes, x + b * kPanelLanes, y + a * kPanelLanes, y + b * kPanelLanes, cos + j * kPanelLanes,
                        sin + j * kPanelLanes, factor);
        }
    }
    for (int d = 2 * n_frequencies; d < head_dim; ++d) {
        for (int lane = 0; lane < lanes; ++lane) y[d * lanes + lane] = x[d * lanes + lane] * factor[lane];
    }
}

/// A pair of rows of a panel: (a, b) -> (a + b, a - b), times factor.
[[gnu::always_inline]] inline void butterfly(float* a, float* b, int lanes, float factor) {
    if (lanes == 1) {
        const float sum = *a + *b, difference = *a - *b;
        *a = sum * factor;
        *b = difference * factor;
        return;
    }
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        const F sum = load(a + lane) + load(b + lane), difference = load(a + lane) - load(b + lane);
        store(a + lane, sum * splat(factor));
        store(b + lane, difference * splat(factor));
    }
}

void hadamard(float* x, int head_dim, int lanes) {
    const int size = hadamard_size(head_dim);
    for (int step = 1; step < size; step *= 2) {
        const float factor = step * 2 == size ? 1.0f / __builtin_sqrtf(static_cast<float>(size)) : 1.0f;
        for (int d = 0; d < head_dim; ++d) {
            if ((d & step) == 0) butterfly(x + d * lanes, x + (d + step) * lanes, lanes, factor);
        }
    }
}

void fold_exp_sum(const float* x, int rows, int lanes, float* running_maximum, float* running_sum) {
    if (lanes == 1) {
        float top = running_maximum[0];
        for (int r = 0; r < rows; ++r) top = x[r] > top ? x[r] : top;
        F sums{};
        int r = 0;
        for (; r + kVectorWidth <= rows; r += kVectorWidth) sums += exp2_of((load(x + r) - splat(top)) * splat(kLog2E));
        float total = sum_of(sums);
        for (; r < rows; ++r) total += __builtin_expf(x[r] - top);
        running_sum[0] = running_sum[0] * __builtin_expf(running_maximum[0] - top) + total;
        running_maximum[0] = top;
        return;
    }
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        const F before = load(running_maximum + lane);
        F top = before;
        for (int r = 0; r < rows; ++r) top = maximum(top, load(x + r * kPanelLanes + lane));
        F sum = load(running_sum + lane) * exp2_of((before - top) * splat(kLog2E));
        for (int r = 0; r < rows; ++r) sum += exp2_of((load(x + r * kPanelLanes + lane) - top) * splat(kLog2E));
        store(running_sum + lane, sum);
        store(running_maximum + lane, top);
    }
}

}  // namespace
}  // namespace dca::cpu
