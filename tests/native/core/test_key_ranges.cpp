// How queries and keys are cut along the key ranges, against the definition token by token; CPU and
// GPU kernels share the header.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "check.h"
#include "core/positions/key_ranges.h"
#include "cuda/attention/prefill/split_walk.h"
#include "cuda/attention/work_order.h"

using namespace dca;

namespace {

Scheme scheme_of(uint32_t s, uint32_t w, uint32_t c, bool intra_only = false) { return {s, w, c, 0.0f, 0, intra_only}; }

/// The range of key j for the query at index i, by how many chunks lie between them (eq. 2-8).
Range range_by_gap(const Scheme& scheme, uint32_t i, uint32_t j) {
    const uint32_t gap = i / scheme.chunk_size - j / scheme.chunk_size;
    return gap == 0 ? Range::Intra : gap == 1 ? Range::Successive : Range::Inter;
}

/// Every query once, no block over a chunk border, none larger than allowed.
void check_blocks(uint32_t start, uint32_t n, uint32_t s, uint32_t rows) {
    const QueryBlocks blocks(start, n, s, rows);
    uint32_t next = start;
    for (uint32_t b = 0; b < blocks.count; ++b) {
        const QueryBlock block = blocks.at(b);
        CHECK(block.first == next && block.rows >= 1 && block.rows <= rows);
        CHECK(block.first / s == block.chunk && (block.first + block.rows - 1) / s == block.chunk);
        next = block.first + block.rows;
    }
    CHECK(next == start + n);
}

/// The range and whether it is seen at all, of key j for the query at index i, where the border moves.
int border_range(const Scheme& scheme, uint32_t i, uint32_t j) {
    if (i - j < scheme.window) return static_cast<int>(Range::Near);
    const int far = static_cast<int>(Range::Far);
    if (scheme.border == Border::String) return far;
    if (j >= scheme.beyond) return -1;
    return scheme.border == Border::LmInfinite ? far + static_cast<int>(j) : far;
}

std::vector<Scheme> moving_schemes() {
    std::vector<Scheme> schemes;
    for (const Border border : {Border::String, Border::Streaming, Border::LmInfinite})
        for (const uint32_t window : {1u, 7u, 64u, 100u, 1000u})
            for (const uint32_t beyond : {0u, 1u, 5u, 130u}) {
                if (border == Border::String && beyond > window) continue;
                Scheme scheme;
                scheme.border = border, scheme.window = window, scheme.beyond = beyond;
                schemes.push_back(scheme);
            }
    return schemes;
}

/// Each query of a block sees each of its keys once, in the range that the definition asks for, if a walk's tiles are
/// masked by range and distance.
template <uint32_t kKeys>
void check_moving_walk(const Scheme& scheme, const QueryBlock& block) {
    const uint32_t end = block.first + block.rows;
    std::vector<int> seen(size_t{block.rows} * end, -1);
    TileWalk<kKeys, true> walk(scheme, block);
    do {
        CHECK(walk.key % kKeys == 0 && walk.key < walk.range_end && walk.key + kKeys > walk.range_begin);
        const Distances of_range = distances(scheme, walk.range());
        for (uint32_t i = block.first; i < end; ++i)
            for (uint32_t j = std::max(walk.key, walk.range_begin); j < walk.key + kKeys && j < walk.range_end && j <= i; ++j) {
                if (i - j < of_range.least || i - j >= of_range.below) continue;
                int& range = seen[size_t{i - block.first} * end + j];
                CHECK(range == -1);
                range = static_cast<int>(walk.range());
            }
    } while (walk.next());
    for (uint32_t i = block.first; i < end; ++i)
        for (uint32_t j = 0; j <= i; ++j) CHECK(seen[size_t{i - block.first} * end + j] == border_range(scheme, i, j));
}

/// The walk's tiles start at multiples of their size and cover each key that a block's last query sees exactly
/// once, in the range that the chunks' gap asks for; those of a range go from its end to its begin.
/// Through a window only the keys are covered that some query of the block sees.
template <uint32_t kKeys, bool kWindowed = false>
void check_walk(const Scheme& scheme, const QueryBlock& block, uint32_t window = 0) {
    const uint32_t end = block.first + block.rows;
    std::vector<int> seen(end, 0);
    TileWalk<kKeys, kWindowed> walk(scheme, block, window);
    uint32_t last = 0;
    do {
        CHECK(walk.key % kKeys == 0);
        CHECK(walk.key < walk.range_end && walk.key + kKeys > walk.range_begin);
        CHECK(walk.entered ? walk.key + kKeys >= walk.range_end : walk.key + kKeys == last);
        last = walk.key;
        for (uint32_t key = std::max(walk.key, walk.range_begin); key < walk.key + kKeys && key < walk.range_end; ++key) {
            CHECK(walk.range() == range_by_gap(scheme, block.first, key));
            ++seen[key];
        }
    } while (walk.next());
    const uint32_t first = std::max(scheme.intra_only ? block.chunk * scheme.chunk_size : 0, window_begin(window, block.first));
    for (uint32_t key = 0; key < end; ++key) CHECK(seen[key] == (key >= first ? 1 : 0));
}

}  // namespace

// What a layer with a window relies on (core/positions/scheme.h, window_scheme).
TEST(a_windows_scheme_keeps_every_distance_within_it) {
    for (const uint32_t window : {1u, 2u, 7u, 128u}) {
        const dca::Scheme scheme = dca::window_scheme(window);
        for (uint32_t query = 0; query < 5 * window; ++query) {
            const uint32_t chunk = query / scheme.chunk_size;
            for (uint32_t key = dca::window_begin(window, query); key <= query; ++key) {
                const auto range = key / scheme.chunk_size == chunk ? dca::Range::Intra : dca::Range::Successive;
                CHECK(scheme.query_position(range, query % scheme.chunk_size) - scheme.key_position(key) == query - key);
            }
        }
    }
}

TEST(query_blocks_cover_every_query_once) {
    for (const uint32_t s : {1u, 6u, 64u, 100u, 129u, 1u << 31})
        for (const uint32_t start : {0u, 1u, 5u, 99u, 128u, 700u})
            for (const uint32_t n : {1u, 5u, 6u, 7u, 128u, 200u, 257u, 1000u}) check_blocks(start, n, s, 128);
}

TEST(tiles_cover_every_key_once_in_its_range) {
    for (const uint32_t s : {1u, 6u, 64u, 100u, 129u, 1u << 31})
        for (const bool intra_only : {false, true}) {
            const Scheme scheme = scheme_of(s, s / 2, 2 * s, intra_only);
            const QueryBlocks blocks(37, 500, s, 64);
            for (uint32_t b = 0; b < blocks.count; ++b) {
                check_walk<16>(scheme, blocks.at(b));
                check_walk<128>(scheme, blocks.at(b));
            }
        }
}

TEST(parts_of_a_walk_are_its_tiles_in_order_none_empty) {
    struct Tile {
        uint32_t key, begin, end;
        Range range;
        bool operator==(const Tile&) const = default;
    };
    const auto tile_of = [](const auto& walk) { return Tile{walk.key, walk.range_begin, walk.range_end, walk.range()}; };
    for (const uint32_t s : {16u, 100u, 129u, 1u << 31})
        for (const bool intra_only : {false, true}) {
            const Scheme scheme = scheme_of(s, s / 2, 2 * s, intra_only);
            const QueryBlocks blocks(337, 200, s, 64);
            for (uint32_t b = 0; b < blocks.count; ++b) {
                std::vector<Tile> whole;
                TileWalk<16> walk(scheme, blocks.at(b));
                const uint32_t tiles = walk.left();
                do whole.push_back(tile_of(walk));
                while (walk.next());
                CHECK(tiles == whole.size());
                for (uint32_t parts = 1; parts <= tiles; ++parts) {
                    std::vector<Tile> found;
                    for (uint32_t part = 0; part < parts; ++part) {
                        dca::cuda::SplitWalk<16> some(scheme, blocks.at(b), {}, part, parts);
                        Range last = some.range();
                        const size_t before = found.size();
                        bool in_last = some.in_last_range();
                        do {
                            found.push_back(tile_of(some));
                            if (some.range() != last) CHECK(some.entered && !in_last);
                            last = some.range(), in_last = some.in_last_range();
                        } while (some.next());
                        CHECK(in_last && found.size() - before <= tiles / parts + 1);
                    }
                    CHECK(found == whole);
                }
            }
        }
}

TEST(pieces_of_keys_are_the_walk_in_another_order) {
    using Visit = std::pair<uint32_t, Range>;
    for (const uint32_t s : {100u, 129u, 700u, 1u << 31}) {
        const Scheme scheme = scheme_of(s, s / 2, 2 * s, false);
        const QueryBlocks blocks(1000, 300, s, 64);
        for (uint32_t b = 0; b < blocks.count; ++b) {
            std::vector<Visit> whole;
            TileWalk<128> walk(scheme, blocks.at(b));
            do whole.push_back({walk.key, walk.range()});
            while (walk.next());
            std::ranges::sort(whole);
            for (const std::vector<uint32_t>& borders :
                 {std::vector<uint32_t>{0, 11}, {0, 1, 11}, {0, 3, 7, 11}, {0, 1, 2, 3, 4, 5, 6, 7, 11}}) {
                const auto count = static_cast<uint32_t>(borders.size() - 1);
                std::vector<Visit> found;
                for (uint32_t n = 0; n < count; ++n) {
                    dca::cuda::SplitWalk<128> piece(scheme, blocks.at(b), {borders[n], borders[n + 1], n, count}, 0, 1);
                    do {
                        CHECK(piece.key / 128 >= borders[n] && piece.key / 128 < borders[n + 1]);
                        found.push_back({piece.key, piece.range()});
                    } while (piece.next());
                }
                std::ranges::sort(found);
                CHECK(found == whole);
            }
        }
    }
}

TEST(tiles_show_every_query_its_keys_once_where_the_border_moves) {
    for (const Scheme& scheme : moving_schemes()) {
        const QueryBlocks blocks(37, 300, scheme.chunk_size, 64);
        for (uint32_t b = 0; b < blocks.count; ++b) {
            check_moving_walk<16>(scheme, blocks.at(b));
            check_moving_walk<128>(scheme, blocks.at(b));
        }
    }
}

TEST(a_query_alone_sees_its_ranges_whole_where_the_border_moves) {
    for (const Scheme& scheme : moving_schemes())
        for (const uint32_t i : {0u, 1u, 6u, 7u, 63u, 64u, 99u, 100u, 129u, 140u, 300u}) {
            const KeyRange unseen = unseen_keys(scheme, i);
            std::vector<int> seen(i + 1, -1);
            for (uint32_t range = 0; range < range_count(scheme, 0, i + 1); ++range) {
                const KeyRange keys = key_range(scheme, 0, static_cast<Range>(range), i + 1);
                const uint32_t first = first_of_range(scheme, static_cast<Range>(range), keys, i);
                CHECK(first < keys.end);
                for (uint32_t j = first; j < keys.end; ++j) seen[j] = static_cast<int>(range);
            }
            for (uint32_t j = 0; j <= i; ++j) {
                CHECK(seen[j] == border_range(scheme, i, j));
                CHECK((seen[j] == -1) == (j >= unseen.begin && j < unseen.end));
            }
            if (range_count(scheme, 0, i + 1) > 3) continue;
            const KeyTiles<16, true> tiles(scheme, i + 1);
            std::vector<int> tiled(i + 1, -1);
            for (uint32_t t = 0; t < tiles.count; ++t) {
                const KeyTile tile = tiles.at(t);
                for (uint32_t j = tile.key; j < tile.key + 16; ++j) {
                    if (tile.holds(j)) tiled[j] = static_cast<int>(tile.range);
                }
            }
            CHECK(tiled == seen);
        }
}

TEST(tiles_cover_what_is_seen_through_a_window) {
    for (const uint32_t window : {0u, 1u, 2u, 7u, 64u, 100u, 129u})
        for (const uint32_t s : {window, 6u, 100u, 1u << 31}) {
            if (s == 0) continue;
            const Scheme scheme = scheme_of(s, s / 2, 2 * s);
            const QueryBlocks blocks(37, 500, s, 64);
            for (uint32_t b = 0; b < blocks.count; ++b) {
                check_walk<16, true>(scheme, blocks.at(b), window);
                check_walk<128, true>(scheme, blocks.at(b), window);
            }
        }
}

TEST(ranges_hold_each_visible_key_once_where_its_gap_says) {
    for (const uint32_t s : {1u, 2u, 6u, 7u, Scheme::kEndless})
        for (const bool intra_only : {false, true}) {
            const Scheme scheme = scheme_of(s, s / 2, 2 * s, intra_only);
            for (uint32_t i = 0; i < 40; ++i) {
                const uint32_t chunk = i / s;
                std::vector<int> seen(i + 1, 0);
                for (uint32_t range = 0; range < range_count(scheme, chunk, i + 1); ++range) {
                    const KeyRange keys = key_range(scheme, chunk, static_cast<Range>(range), i + 1);
                    for (uint32_t j = keys.begin; j < keys.end; ++j) {
                        CHECK(static_cast<Range>(range) == range_by_gap(scheme, i, j));
                        ++seen[j];
                    }
                }
                for (uint32_t j = 0; j <= i; ++j) CHECK(seen[j] == (intra_only && j / s != chunk ? 0 : 1));
                for (uint32_t j = 0; j <= i; ++j) CHECK((seen[j] > 0) == (j >= first_key(scheme, chunk)));
            }
        }
}

TEST(the_newest_tokens_tiles_hold_each_visible_key_once_in_ascending_order) {
    for (const uint32_t s : {1u, 6u, 64u, 100u, Scheme::kEndless})
        for (const bool intra_only : {false, true})
            for (const uint32_t length : {1u, 6u, 7u, 13u, 64u, 65u, 301u}) {
                const Scheme scheme = scheme_of(s, s / 2, 2 * s, intra_only);
                const KeyTiles<16> tiles(scheme, length);
                uint32_t next = first_key(scheme, (length - 1) / s);
                for (uint32_t t = 0; t < tiles.count; ++t) {
                    const KeyTile tile = tiles.at(t);
                    CHECK(tile.key % 16 == 0 && tile.holds(next));
                    for (uint32_t key = tile.key; key < tile.key + 16; ++key) {
                        if (!tile.holds(key)) continue;
                        CHECK(key == next && tile.range == range_by_gap(scheme, length - 1, key));
                        ++next;
                    }
                }
                CHECK(next == length);
            }
}

TEST(the_newest_tokens_tiles_hold_what_is_seen_through_a_window) {
    for (const uint32_t window : {0u, 1u, 2u, 7u, 64u, 100u})
        for (const uint32_t s : {window, 6u, 100u, Scheme::kEndless})
            for (const uint32_t length : {1u, 6u, 7u, 13u, 64u, 65u, 301u}) {
                if (s == 0) continue;
                const Scheme scheme = scheme_of(s, s / 2, 2 * s);
                const KeyTiles<16, true> tiles(scheme, length, window);
                uint32_t next = window_begin(window, length - 1);
                for (uint32_t t = 0; t < tiles.count; ++t) {
                    const KeyTile tile = tiles.at(t);
                    CHECK(tile.key % 16 == 0 && tile.holds(next));
                    for (uint32_t key = tile.key; key < tile.key + 16; ++key) {
                        if (!tile.holds(key)) continue;
                        CHECK(key == next && tile.range == range_by_gap(scheme, length - 1, key));
                        ++next;
                    }
                }
                CHECK(next == length);
            }
}

TEST(work_order_visits_every_pair_once_longest_first_in_a_section) {
    const cuda::WorkOrder order{7, 10, 4};
    std::vector<int> seen(70, 0);
    uint32_t section = 0, block = 7;
    for (uint32_t n = 0; n < order.count(); ++n) {
        const cuda::WorkOrder::Item item = order.at(n);
        ++seen[item.block * 10 + item.head];
        CHECK(item.head / 4 >= section);
        if (item.head / 4 > section) section = item.head / 4, block = 7;
        CHECK(item.block <= block);
        block = item.block;
    }
    for (const int times : seen) CHECK(times == 1);
}
