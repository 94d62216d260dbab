// What a cache of keys and values holds, and how it gets there and back.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/half.h"
#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"

namespace dca::cpu {
namespace {

/// How a cache type stores values: `kVectorWidth` of them as floats, one as float, and the way in.
struct CacheF32 {
    using Element = float;
    static constexpr int code_bits = 0;
    [[gnu::always_inline]] static F load_vector(const Element* p) { return load(p); }
    [[gnu::always_inline]] static void store_vector(Element* p, F v) { store(p, v); }
    [[gnu::always_inline]] static Element encode(float x) { return x; }
};
struct CacheF16 {
    using Element = uint16_t;
    static constexpr int code_bits = 0;
    [[gnu::always_inline]] static F load_vector(const Element* p) { return load_f16(p); }
    [[gnu::always_inline]] static void store_vector(Element* p, F v) { store_f16(p, v); }
    [[gnu::always_inline]] static Element encode(float x) {
#if defined(__F16C__)
        return static_cast<Element>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
        return __builtin_bit_cast(Element, static_cast<__fp16>(x));
#else
        return float_to_half(x);
#endif
    }
};
struct CacheBF16 {
    using Element = uint16_t;
    static constexpr int code_bits = 0;
    [[gnu::always_inline]] static F load_vector(const Element* p) { return load_bf16(p); }
    [[gnu::always_inline]] static void store_vector(Element* p, F v) {
        for (int i = 0; i < kVectorWidth; ++i) p[i] = float_to_bf16(v[i]);
    }
    [[gnu::always_inline]] static Element encode(float x) { return float_to_bf16(x); }
};
/// Codes with a scale and an offset for a group of features (kernels.h).
template <CacheType kType, int bits>
struct CacheCodes {
    using Element = uint8_t;
    static constexpr CacheType type = kType;
    static constexpr int code_bits = bits;
};
using CacheQ8 = CacheCodes<CacheType::Q8, 8>;
using CacheQ4 = CacheCodes<CacheType::Q4, 4>;

/// Of a cache of codes; of others 1.
template <class Cache>
[[gnu::always_inline]] inline int group_of(int head_dim) {
    if constexpr (Cache::code_bits != 0) return code_group(Cache::type, head_dim);
    return 1;
}

/// Elements from a feature row of keys, or from a value's, to the next: Q4's hold two features.
template <class Cache>
[[gnu::always_inline]] inline int element_rows(int head_dim) {
    return Cache::code_bits == 4 ? head_dim / 2 : head_dim;
}

/// The codes of feature d, which is one of element row d, or of d - head_dim / 2 in its high halves.
template <class Cache>
[[gnu::always_inline]] inline F load_codes(const uint8_t* row, bool high) {
    I codes = load_integers(row);
    if constexpr (Cache::code_bits == 4) codes = high ? codes >> 4 : codes & 15;
    return __builtin_convertvector(codes, F);
}

/// The same with what their fine codes add; `fine` is null where there are none.
template <class Cache>
[[gnu::always_inline]] inline F load_codes(const uint8_t* row, const uint8_t* fine, bool high) {
    const F codes = load_codes<Cache>(row, high);
    if constexpr (Cache::code_bits == 4) {
        if (fine != nullptr) return codes + (load_codes<Cache>(fine, high) - splat(8.0f)) * splat(1.0f / 16);
    }
    return codes;
}

/// The fine codes of the token at index `first`, whatever its page, and of those behind it.
template <class Cache>
[[gnu::always_inline]] inline const uint8_t* fine_row(const std::byte* page, uint32_t first, int head_dim) {
    return reinterpret_cast<const uint8_t*>(page) + size_t{first % kKeyTile} * element_rows<Cache>(head_dim);
}

/// Reads keys of one block of kPanelLanes after another, as vectors over keys.
template <class Cache>
class KeyReader {
    static constexpr bool codes = Cache::code_bits != 0;

public:
    [[gnu::always_inline]] KeyReader(const CacheView& cache, int head_dim)
        : cache_(cache), head_dim_(head_dim), group_(group_of<Cache>(head_dim)) {}

    /// The block of `first`, a multiple of kPanelLanes.
    [[gnu::always_inline]] void enter(uint32_t first) {
        block_ = reinterpret_cast<const typename Cache::Element*>(cache_.keys) + size_t{first} * element_rows<Cache>(head_dim_);
        if constexpr (Cache::code_bits == 4) {
            const uint16_t* centre = cache_.centres + size_t{first / kKeyTile} * head_dim_;
            for (int d = 0; d < head_dim_; d += kVectorWidth) store(centre_ + d, load_f16(centre + d));
        }
        if constexpr (codes) {
            if (cache_.fine_keys != nullptr) fine_ = fine_row<Cache>(cache_.fine_keys, first, head_dim_);
            const int values = head_dim_ / group_ * 2 * kPanelLanes;
            const uint16_t* in = cache_.key_affine + size_t{first / kPanelLanes} * values;
            for (int i = 0; i < values; i += kVectorWidth) store(affine_ + i, load_f16(in + i));
        }
    }
    /// Feature d of the block's keys lane, lane + 1, ...
    [[gnu::always_inline]] F at(int d, int lane) const {
        if constexpr (codes) {
            const bool high = d >= element_rows<Cache>(head_dim_);
            const int row = high ? d - element_rows<Cache>(head_dim_) : d;
            const float* affine = affine_ + d / group_ * 2 * kPanelLanes + lane;
            const uint8_t* fine = fine_ != nullptr ? fine_ + row * kPanelLanes + lane : nullptr;
            F offset = load(affine + kPanelLanes);
            if constexpr (Cache::code_bits == 4) offset += splat(centre_[d]);
            return load_codes<Cache>(block_ + row * kPanelLanes + lane, fine, high) * load(affine) + offset;
        } else {
            return Cache::load_vector(block_ + d * kPanelLanes + lane);
        }
    }

private:
    const CacheView& cache_;
    int head_dim_, group_;
    const typename Cache::Element* block_ = nullptr;
    const uint8_t* fine_ = nullptr;
    alignas(64) float affine_[codes ? kMaxCodeGroups * 2 * kPanelLanes : kPanelLanes];
    alignas(64) float centre_[Cache::code_bits == 4 ? kMaxHeadDim : 1];
};

/// Reads up to `most` values from `first` on, as vectors over features.
template <class Cache, int most>
class ValueReader {
    static constexpr bool codes = Cache::code_bits != 0;

public:
    [[gnu::always_inline]] ValueReader(const CacheView& cache, int head_dim, uint32_t first, int count)
        : head_dim_(head_dim),
          group_(group_of<Cache>(head_dim)),
          groups_(head_dim / group_),
          rows_(reinterpret_cast<const typename Cache::Element*>(cache.values) + size_t{first} * element_rows<Cache>(head_dim)) {
        if constexpr (codes) {
            if (cache.fine_values != nullptr) fine_ = fine_row<Cache>(cache.fine_values, first, head_dim);
            const int values = count * groups_ * 2;
            const uint16_t* in = cache.value_affine + size_t{first} * groups_ * 2;
            int i = 0;
            for (; i + kVectorWidth <= values; i += kVectorWidth) store(affine_ + i, load_f16(in + i));
            for (; i < values; ++i) affine_[i] = half_to_float(in[i]);
        }
    }
    /// Features d, d + 1, ... of value j of them.
    [[gnu::always_inline]] F at(int j, int d) const {
        const auto* row = rows_ + static_cast<size_t>(j) * element_rows<Cache>(head_dim_);
        if constexpr (codes) {
            const bool high = d >= element_rows<Cache>(head_dim_);
            const float* affine = affine_ + (j * groups_ + d / group_) * 2;
            const int at = high ? d - element_rows<Cache>(head_dim_) : d;
            const uint8_t* fine = fine_ != nullptr ? fine_ + static_cast<size_t>(j) * element_rows<Cache>(head_dim_) + at : nullptr;
            return load_codes<Cache>(row + at, fine, high) * splat(affine[0]) + splat(affine[1]);
        } else {
            return Cache::load_vector(row + d);
        }
    }

private:
    int head_dim_, group_, groups_;
    const typename Cache::Element* rows_;
    const uint8_t* fine_ = nullptr;
    alignas(64) float affine_[codes ? most * kMaxCodeGroups * 2 : 1];
};

/// A group of values as codes: where they begin and how far one is from the next.
struct Affine {
    uint16_t scale, offset;  // f16
    float inverse, start;    // what encoding computes with
};

/// Spans the group from its smallest to its largest with `levels` steps. In f16 the offset is rounded down, so that nothing
/// lies below it. A group with a value that is no number, or too large, is none: code 0 times such a scale.
inline Affine affine_of(const float* x, int stride, int count, int levels) {
    float low = x[0], high = x[0];
    bool finite = true;
    for (int i = 0; i < count; ++i) {
        const float value = x[i * stride];
        low = value < low ? value : low;
        high = value > high ? value : high;
        finite &= (__builtin_bit_cast(uint32_t, value) & 0x7f800000u) != 0x7f800000u;
    }
    uint16_t offset = CacheF16::encode(low);
    if (half_to_float(offset) > low) offset = offset == 0 ? 0x8001 : (offset & 0x8000) != 0 ? offset + 1 : offset - 1;
    const float start = half_to_float(offset);
    const uint16_t scale = CacheF16::encode((high - start) / static_cast<float>(levels));
    const float step = half_to_float(scale);
    constexpr uint16_t infinite = 0x7c00, no_number = 0x7e00;
    if (!finite || (scale & infinite) == infinite || (offset & infinite) == infinite) return {no_number, no_number, 0.0f, 0.0f};
    return {scale, offset, step > 0.0f ? 1.0f / step : 0.0f, start};
}

[[gnu::always_inline]] inline float between(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

[[gnu::always_inline]] inline uint8_t code_of(float x, const Affine& affine, int levels) {
    if (affine.inverse == 0.0f) return 0;
    return static_cast<uint8_t>(between(__builtin_rintf((x - affine.start) * affine.inverse), 0.0f, static_cast<float>(levels)));
}

/// The sixteenths of a step from `code` to x, plus 8.
[[gnu::always_inline]] inline uint8_t fine_code_of(float x, const Affine& affine, uint8_t code) {
    if (affine.inverse == 0.0f) return 8;
    const float steps = (x - affine.start) * affine.inverse - static_cast<float>(code);
    return static_cast<uint8_t>(between(__builtin_rintf(steps * 16.0f), -8.0f, 7.0f) + 8.0f);
}

/// The codes of one token's head (stride `lanes`) into element rows `stride` apart, the fine ones likewise unless `fine` is null;
/// put(group, affine) stores what goes with them.
template <class Cache, class Put>
inline void store_codes(const float* x, int head_dim, int lanes, uint8_t* out, uint8_t* fine, int stride, Put put) {
    constexpr int levels = (1 << Cache::code_bits) - 1;
    const int group = group_of<Cache>(head_dim);
    const auto store_half = [&](uint8_t* to, int d, uint8_t code) {
        if (const int half = head_dim / 2; d < half) {
            to[d * stride] = code;
        } else {
            to[(d - half) * stride] |= static_cast<uint8_t>(code << 4);
        }
    };
    for (int first = 0; first < head_dim; first += group) {
        const Affine affine = affine_of(x + first * lanes, lanes, group, levels);
        put(first / group, affine);
        for (int d = first; d < first + group; ++d) {
            const uint8_t code = code_of(x[d * lanes], affine, levels);
            if constexpr (Cache::code_bits == 8) {
                out[d * stride] = code;
            } else {
                store_half(out, d, code);
                if (fine != nullptr) store_half(fine, d, fine_code_of(x[d * lanes], affine, code));
            }
        }
    }
}

template <class Cache>
void store_keys(const float* x, int head_dim, int lanes, int count, std::byte* keys, uint16_t* affine, uint32_t first,
                [[maybe_unused]] std::byte* fine, [[maybe_unused]] const uint16_t* centres) {
    auto* cache = reinterpret_cast<typename Cache::Element*>(keys);
    if constexpr (Cache::code_bits == 0) {
        if (lanes == kPanelLanes && count == kPanelLanes && first % kPanelLanes == 0) {
            auto* block = cache + size_t{first} * head_dim;
            for (int i = 0; i < head_dim * kPanelLanes; i += kVectorWidth) Cache::store_vector(block + i, load(x + i));
            return;
        }
    }
    for (int t = 0; t < count; ++t) {
        const uint32_t j = first + t;
        auto* at = cache + size_t{j / kPanelLanes} * element_rows<Cache>(head_dim) * kPanelLanes + j % kPanelLanes;
        if constexpr (Cache::code_bits == 0) {
            for (int d = 0; d < head_dim; ++d) at[d * kPanelLanes] = Cache::encode(x[d * lanes + t]);
        } else {
            constexpr uint32_t lanes_mask = kPanelLanes - 1;
            uint8_t* fine_at =
                fine == nullptr ? nullptr : const_cast<uint8_t*>(fine_row<Cache>(fine, j & ~lanes_mask, head_dim)) + (j & lanes_mask);
            const float* key = x + t;
            int stride = lanes;
            [[maybe_unused]] float centred[Cache::code_bits == 4 ? kMaxHeadDim : 1];
            if constexpr (Cache::code_bits == 4) {
                const uint16_t* centre = centres + size_t{j / kKeyTile} * head_dim;
                for (int d = 0; d < head_dim; ++d) centred[d] = x[d * lanes + t] - half_to_float(centre[d]);
                key = centred;
                stride = 1;
            }
            store_codes<Cache>(key, head_dim, stride, at, fine_at, kPanelLanes, [&](int group, const Affine& of_group) {
                const size_t groups = code_groups(Cache::type, head_dim);
                uint16_t* to = affine + (size_t{j / kPanelLanes} * groups + group) * 2 * kPanelLanes + j % kPanelLanes;
                to[0] = of_group.scale;
                to[kPanelLanes] = of_group.offset;
            });
        }
    }
}

inline void settle_keys(const CacheView& view, uint32_t first, int head_dim, bool about_first_key) {
    constexpr int blocks = kKeyTile / kPanelLanes;
    alignas(64) float keys[blocks][kMaxHeadDim * kPanelLanes];
    KeyReader<CacheQ4> reader(view, head_dim);
    for (int b = 0; b < blocks; ++b) {
        reader.enter(first + b * kPanelLanes);
        for (int d = 0; d < head_dim; ++d) {
            for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) store(keys[b] + d * kPanelLanes + lane, reader.at(d, lane));
        }
    }
    auto* centre = const_cast<uint16_t*>(view.centres) + size_t{first / kKeyTile} * head_dim;
    for (int d = 0; d < head_dim; ++d) {
        F sum{};
        for (const auto& block : keys) {
            for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) sum += load(block + d * kPanelLanes + lane);
        }
        const float mean = about_first_key ? keys[0][d * kPanelLanes] : sum_of(sum) * (1.0f / kKeyTile);
        centre[d] = CacheF16::encode(mean > -65504.0f && mean < 65504.0f ? mean : 0.0f);
    }
    for (uint32_t b = 0; b < blocks; ++b) {
        store_keys<CacheQ4>(keys[b], head_dim, kPanelLanes, kPanelLanes, const_cast<std::byte*>(view.keys),
                            const_cast<uint16_t*>(view.key_affine), first + b * kPanelLanes, const_cast<std::byte*>(view.fine_keys),
                            view.centres);
    }
}

template <class Cache>
void store_values(const float* x, int head_dim, int lanes, int count, std::byte* values, uint16_t* affine, uint32_t first,
                  [[maybe_unused]] std::byte* fine) {
    for (int t = 0; t < count; ++t) {
        const uint32_t j = first + t;
        auto* at = reinterpret_cast<typename Cache::Element*>(values) + size_t{j} * element_rows<Cache>(head_dim);
        if constexpr (Cache::code_bits == 0) {
            for (int d = 0; d < head_dim; ++d) at[d] = Cache::encode(x[d * lanes + t]);
        } else {
            uint8_t* fine_at = fine == nullptr ? nullptr : const_cast<uint8_t*>(fine_row<Cache>(fine, j, head_dim));
            store_codes<Cache>(x + t, head_dim, lanes, at, fine_at, 1, [&](int group, const Affine& of_group) {
                uint16_t* to = affine + (size_t{j} * code_groups(Cache::type, head_dim) + group) * 2;
                to[0] = of_group.scale;
                to[1] = of_group.offset;
            });
        }
    }
}

}  // namespace
}  // namespace dca::cpu
