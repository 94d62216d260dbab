// Rotary position embedding in the attention kernels: of queries, once per key range, and of new keys.
#pragma once

#include "core/positions/scheme.h"
#include "cuda/attention/attention.h"
#include "cuda/device/halves.cuh"

namespace dca::cuda {

/// Four values of a query's row.
struct Quad {
    float v[4];

    static __device__ __forceinline__ Quad from(uint2 bits, Dtype dtype) {
        const float2 low = unpack(bits.x, dtype), high = unpack(bits.y, dtype);
        return {{low.x, low.y, high.x, high.y}};
    }

    template <class T>
    __device__ __forceinline__ uint2 packed() const {
        return {pack<T>(v[0], v[1]), pack<T>(v[2], v[3])};
    }
};

/// A row of head_dim values is rotated in pieces of four pairs, eight values. Piece p of a row
/// is two runs of four consecutive values, at a and b; past rotary_dim they are only copied.
struct RotaryPiece {
    int a, b;  // first element of each run
    int pair;  // first pair, or -1: not rotated
};

__device__ __forceinline__ RotaryPiece rotary_piece(const AttentionShape& shape, int piece) {
    const int half = shape.rotary_dim / 2;
    const int pair = 4 * piece;
    if (pair >= half) return {8 * piece, 8 * piece + 4, -1};
    if (shape.rope_interleaved) return {8 * piece, 8 * piece + 4, pair};
    return {pair, half + pair, pair};
}

/// cos and sin of a piece's four pairs: (cos, sin, cos, sin) twice.
struct Angles {
    float4 low, high;
};

/// `row` is the table's row of the position.
__device__ __forceinline__ Angles load_angles(const float2* row, const RotaryPiece& piece) {
    if (piece.pair < 0) return {{1.0f, 0.0f, 1.0f, 0.0f}, {1.0f, 0.0f, 1.0f, 0.0f}};
    return {__ldg(reinterpret_cast<const float4*>(row + piece.pair)), __ldg(reinterpret_cast<const float4*>(row + piece.pair + 2))};
}

/// Rotates one piece and multiplies it by `factor`.
__device__ __forceinline__ void rotate_piece(Quad& a, Quad& b, const Angles& angles, bool interleaved, float factor) {
    const float c[4] = {angles.low.x, angles.low.z, angles.high.x, angles.high.z};
    const float s[4] = {angles.low.y, angles.low.w, angles.high.y, angles.high.w};
    const Quad x = interleaved ? Quad{{a.v[0], a.v[2], b.v[0], b.v[2]}} : a;
    const Quad y = interleaved ? Quad{{a.v[1], a.v[3], b.v[1], b.v[3]}} : b;
    Quad u, w;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        u.v[n] = (x.v[n] * c[n] - y.v[n] * s[n]) * factor;
        w.v[n] = (y.v[n] * c[n] + x.v[n] * s[n]) * factor;
    }
    a = interleaved ? Quad{{u.v[0], w.v[0], u.v[1], w.v[1]}} : u;
    b = interleaved ? Quad{{u.v[2], w.v[2], u.v[3], w.v[3]}} : w;
}

/// The rotation of queries in pieces (rotary_piece), several of which a thread may have under way at once.
struct QueryRotation {
    const AttentionShape& shape;
    const Scheme& scheme;
    const float2* cos_sin;
    Dtype dtype;  // of the queries

    struct Loaded {
        uint2 a, b;  // the piece's two runs, un-rotated
        Angles angles;
    };

    /// Fetches into `loaded` a piece of the query whose un-rotated row starts at `row`, and its angles for the keys of
    /// `range`; r = i mod s. (Returned by value, it costs the Hopper kernel registers.) kPastL1: the row is in global memory, and
    /// was perhaps written after the kernel had started.
    template <bool kPastL1 = false>
    __device__ __forceinline__ void load(Loaded& loaded, const uint8_t* row, int piece, Range range, uint32_t r) const {
        const RotaryPiece at = rotary_piece(shape, piece);
        const auto *a = reinterpret_cast<const uint2*>(row + 2 * at.a), *b = reinterpret_cast<const uint2*>(row + 2 * at.b);
        loaded.a = kPastL1 ? __ldcg(a) : *a;
        loaded.b = kPastL1 ? __ldcg(b) : *b;
        const size_t position = scheme.query_position(range, r);
        loaded.angles = load_angles(cos_sin + position * (shape.rotary_dim / 2), at);
    }

    /// Rotates a piece, multiplies it by the logit factor and calls store(element, four values of T) for
    /// both runs.
    template <class T, class Store>
    __device__ __forceinline__ void finish(const Loaded& loaded, int piece, float factor, Store&& store) const {
        const RotaryPiece at = rotary_piece(shape, piece);
        Quad a = Quad::from(loaded.a, dtype), b = Quad::from(loaded.b, dtype);
        rotate_piece(a, b, loaded.angles, shape.rope_interleaved, factor);
        store(at.a, a.template packed<T>());
        store(at.b, b.template packed<T>());
    }
};

/// How element e of a row is rotated: with which other one and by which pair's cos and sin.
struct RotatedElement {
    int partner;  // e itself: not at all
    int pair;
    bool first;  // of the pair

    __device__ __forceinline__ RotatedElement(const AttentionShape& shape, int e) : partner(e), pair(0), first(true) {
        if (e >= shape.rotary_dim) return;
        const int half = shape.rotary_dim / 2;
        first = shape.rope_interleaved ? e % 2 == 0 : e < half;
        pair = shape.rope_interleaved ? e / 2 : e % half;
        partner = shape.rope_interleaved ? e ^ 1 : (first ? e + half : e - half);
    }

    /// `cos_sin` is the table's row of the position.
    __device__ __forceinline__ float2 turn(const float2* cos_sin, int e) const {
        return partner == e ? float2{1.0f, 0.0f} : __ldg(cos_sin + pair);
    }

    /// Element e of the row that starts at element `row` of `data`, turned.
    __device__ __forceinline__ float load(const void* data, size_t row, int e, Dtype dtype, const float2& turn) const {
        const float own = load_element(data, row + e, dtype);
        if (partner == e) return own;
        const float other = load_element(data, row + partner, dtype);
        return first ? own * turn.x - other * turn.y : own * turn.x + other * turn.y;
    }
};

/// Element e of the row that starts at element `row` of `data`, rotated alone; `cos_sin` is the table's row
/// of the position.
__device__ __forceinline__ float rotated_element(const AttentionShape& shape, const void* data, size_t row, int e, Dtype dtype,
                                                 const float2* cos_sin) {
    const RotatedElement rotated(shape, e);
    return rotated.load(data, row, e, dtype, rotated.turn(cos_sin, e));
}

}  // namespace dca::cuda
