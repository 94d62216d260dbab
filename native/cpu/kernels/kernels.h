// The arithmetic of the CPU backend as a table of functions, one table an instruction set.
// cpu/kernels/ is compiled once for each; core/machine/isa.h chooses.
//
// Activations lie in panels. A panel holds `lanes` tokens (kPanelLanes in prefill, 1 in decode)
// feature by feature: value (feature f, lane t) of a panel is at [f * lanes + t], so prefill's
// vectors run over tokens and need no reduction across a vector, and one token is a plain vector.
// A lane is always that: a token's place in its panel, or a key's in its block of as many.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/formats.h"
#include "core/backend/cache_type.h"
#include "core/machine/isa.h"
#include "core/positions/key_ranges.h"
#include "core/rope.h"
#include "cpu/packed.h"

namespace dca::cpu {

constexpr int kPanelLanes = 32;              // tokens of a prefill panel, keys of a key block
constexpr int kGemmRows = 48;                // weight rows dequantized at a time
constexpr int kGemmCols = 512;               // values of those rows dequantized at a time
constexpr int kGemmStride = kGemmCols + 16;  // not a power of two: rows must not share a cache set
constexpr int kMaxHeadDim = 256;
constexpr int kKeyTile = 128;                    // keys converted to f32 at a time
constexpr int64_t kNoWindow = int64_t{1} << 40;  // more keys than any sequence has

/// c += a b (or c = a b) for every panel: a is `rows` × `cols` weights dequantized to f32 with
/// kGemmStride, b's panels are (cols, kPanelLanes), c's are (rows, kPanelLanes). Lanes of the last panel beyond
/// `last_lanes` hold no token: what c has there is nobody's.
struct GemmArgs {
    const float* a;
    int rows;
    int cols;
    const float* b;
    size_t b_panel_stride;  // floats
    float* c;
    size_t c_panel_stride;  // floats
    int panels;
    bool accumulate;
    int last_lanes = kPanelLanes;
};

/// y[t · y_stride + r] = w[r] · x[t · x_stride …] for `rows` rows of `cols` values and a few tokens.
struct DotTokensArgs {
    BlockType type;
    const std::byte* w;
    int64_t row_bytes;
    int rows;
    const float* x;
    size_t x_stride;
    int tokens;
    int cols;
    float* y;
    size_t y_stride;
};

/// Caches of codes keep, for each token and this many of its features, a scale and an offset: value = code · scale + offset.
constexpr int code_group(CacheType type, int head_dim) {
    if (type == CacheType::Q4) return head_dim / 2;
    return head_dim % 32 == 0 ? 32 : 16;
}
constexpr int code_groups(CacheType type, int head_dim) { return head_dim / code_group(type, head_dim); }
constexpr int kMaxCodeGroups = 15;  // of 240 features, in groups of 16

/// The cache of one layer and key head. Keys lie in blocks of kPanelLanes: value (key j, d) is
/// at [(j / 32 * head_dim + d) * 32 + j % 32]; values row by row: (j, d) at [j * head_dim + d].
/// In Q4 a byte holds features d (low) and d + head_dim / 2 (high) in the place of d, and rows are half as long. A page that a step
/// writes to has fine codes besides, which lie in the same way: value = (code + (fine - 8) / 16) · scale + offset.
struct CacheView {
    const std::byte* keys;
    const std::byte* values;
    // f16, caches of codes only. Group g of key j: scale at [(j / 32 · groups + g) · 64 + j % 32], offset 32 behind it;
    // of value j: [(j · groups + g) · 2] and the next.
    const uint16_t* key_affine;
    const uint16_t* value_affine;
    // Q4, of a view that one page is read of: its fine codes, from its first token on; else null.
    const std::byte* fine_keys = nullptr;
    const std::byte* fine_values = nullptr;
    // Q4: f16, (pages, head_dim): what is added to every key of a page.
    const uint16_t* centres = nullptr;
};

/// A byte of fine codes that add nothing.
constexpr int kNoFineCodes = 0x88;

/// One panel of one key head's `group` query heads against keys `span` (counted from the start of the view), folded into a running softmax.
struct AttendPanelArgs {
    const float* q;  // group × (head_dim, kPanelLanes), rotated, times scale · log2(e)
    float* out;      // group × (head_dim, kPanelLanes), not yet divided by sum
    float* maximum;  // group × (kPanelLanes)
    float* sum;      // group × (kPanelLanes)
    int group;
    int head_dim;
    CacheView cache;
    KeyRange span;
    int64_t first_query;             // index of lane 0's query, perhaps before the span's memory; keys after a lane's query are not seen
    float* scratch;                  // attend_scratch_floats(group, head_dim)
    int64_t window = kNoWindow;      // how many keys a query sees, its own included
    float cap = 0.0f;                // of scores, times log2(e); read by the capped kernels
    const uint8_t* heads = nullptr;  // (group) 0: that head passes these keys over; null: none does
};

/// The same for one query (lanes = 1).
struct AttendRowArgs {
    const float* q;  // group × (head_dim), rotated, times scale · log2(e)
    float* out;      // group × (head_dim)
    float* maximum;  // group
    float* sum;      // group
    int group;
    int head_dim;
    CacheView cache;
    KeyRange span;
    float cap = 0.0f;  // as above
};

/// A tile's keys and values in f32, its scores, and what kernels/attention_int16.h adds: queries as integers, a scale a column.
constexpr size_t attend_scratch_floats(int group, int head_dim) {
    const size_t scales = size_t{kKeyTile} + head_dim + kPanelLanes + static_cast<size_t>(group) * kPanelLanes;
    return size_t{kKeyTile} * head_dim * 2 + size_t{kKeyTile} * kPanelLanes + scales +
           static_cast<size_t>(group) * head_dim / 2 * kPanelLanes;
}

struct Kernels {
    const char* name;

    void (*gemm)(const GemmArgs& args);

    /// y[r] = w[r] · x for `rows` rows of `cols` values.
    void (*dot_rows)(BlockType type, const std::byte* w, int64_t row_bytes, int rows, const float* x, int cols, float* y);

    /// The same for several tokens, each with dot_rows' bits.
    void (*dot_tokens)(const DotTokensArgs& args);

    /// y = x / rms(x) · weight over `width` features of one panel.
    void (*rms_norm)(const float* x, const float* weight, float* y, int width, int lanes, float epsilon);

    /// y = (x - mean(x)) / deviation(x) · weight + bias, likewise; bias may be null.
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float* y, int width, int lanes, float epsilon);

    /// gate = activation(gate) · up, n values, indexed by Activation.
    void (*gate_multiply[3])(float* gate, const float* up, size_t n);

    /// x += scale · y, n values.
    void (*add_scaled)(float* x, const float* y, float scale, size_t n);

    /// x = scale · x, then cap · tanh(x / cap) unless cap is 0, n values.
    void (*scale_and_cap)(float* x, float scale, float cap, size_t n);

    /// y = rotation of one head of one panel, (head_dim, lanes), times factor[lane]. cos and sin
    /// are (n_frequencies, lanes); values past 2 n_frequencies are only scaled.
    void (*rotate)(const float* x, float* y, int head_dim, int n_frequencies, RopeLayout layout, int lanes, const float* cos,
                   const float* sin, const float* factor);

    /// Stores `count` keys (or values) of one head, lanes of a panel, from index `first` on. `fine` is where their page's fine
    /// codes go, which they must not leave; null: nowhere. `centres` is CacheView's.
    void (*store_keys[kCacheTypes])(const float* x, int head_dim, int lanes, int count, std::byte* keys, uint16_t* affine, uint32_t first,
                                    std::byte* fine, const uint16_t* centres);
    void (*store_values[kCacheTypes])(const float* x, int head_dim, int lanes, int count, std::byte* values, uint16_t* affine,
                                      uint32_t first, std::byte* fine);

    /// Codes the keys of a full page of a Q4 cache, from index `first` on, anew: less their mean, or their first, which becomes the page's
    /// centre.
    /// `view` is of the page's fine codes too.
    void (*settle_keys)(const CacheView& view, uint32_t first, int head_dim, bool about_first_key);

    void (*attend_panel[kCacheTypes])(const AttendPanelArgs& args);  // indexed by CacheType
    void (*attend_row[kCacheTypes])(const AttendRowArgs& args);
    /// The same where scores become cap · tanh(score / cap).
    void (*attend_panel_capped[kCacheTypes])(const AttendPanelArgs& args);
    void (*attend_row_capped[kCacheTypes])(const AttendRowArgs& args);

    /// x (head_dim, lanes) turned by Hadamard matrices over its features, as large as divide head_dim (hadamard_size): their own
    /// inverses, and scores stay as they are if queries and keys are both turned.
    void (*hadamard)(float* x, int head_dim, int lanes);

    /// The mean of keys [span.begin, span.end) of a view, as attention sees them: (head_dim).
    void (*mean_keys[kCacheTypes])(const CacheView& cache, KeyRange span, int head_dim, float* mean);

    /// scores (rows × kPanelLanes) of one panel's queries (head_dim, kPanelLanes) with `rows` mean keys, which lie as keys do in a
    /// cache: in blocks of kPanelLanes, feature by feature.
    void (*score_means)(const float* means, int rows, const float* q, int head_dim, float* scores);

    /// weights[row] = the sum over lanes [first, last) of 2^(score - the lane's largest); scores are overwritten.
    void (*weigh_pages)(float* scores, int rows, int first, int last, float* weights);

    /// Key blocks [block, block + blocks) as f32, (head_dim, kPanelLanes) each.
    void (*load_keys[kCacheTypes])(const CacheView& cache, uint32_t block, int blocks, int head_dim, float* keys);

    /// `count` keys and values from anywhere in the view, as f32 in the order and layout of a cache that holds just them.
    void (*gather_rows[kCacheTypes])(const CacheView& cache, const uint32_t* places, int count, int head_dim, float* keys, float* values);

    /// With weight = exp(score - top[lane]) · inverse[lane] of scores (rows × kPanelLanes): columns[row] gains the sum over
    /// lanes, diagonals[lane - row] each one.
    void (*fold_lines)(const float* scores, int rows, const float* top, const float* inverse, float* columns, float* diagonals);

    /// log of the sum of exp over `rows` values of each lane, folded into a running (maximum, sum).
    void (*fold_exp_sum)(const float* x, int rows, int lanes, float* maximum, float* sum);

    const PackedKernels* packed;  // null where this instruction set has none
};

/// The table compiled for `isa`, which this machine has.
const Kernels& cpu_kernels(Isa isa) noexcept;

// One a translation unit.
const Kernels& generic_kernels() noexcept;
#if defined(__x86_64__)
const Kernels& avx2_kernels() noexcept;
const Kernels& avx512_kernels() noexcept;
#elif defined(__aarch64__)
const Kernels& dotprod_kernels() noexcept;
const Kernels& i8mm_kernels() noexcept;
#endif

}  // namespace dca::cpu
