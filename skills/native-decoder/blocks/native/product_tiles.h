// `products` with the arithmetic of tiles (tiles.h): in tiles, or for few rows in the lanes of vectors, which then add in the
// same order.
#pragma once

#include "product.h"

namespace sartor {

using Scratch = Tiling;

// What is touched ahead of a single pass through the weights, which come from memory.
constexpr size_t TILE_AHEAD = 8192;  // bytes
constexpr int STEP_LINES = TILE_DEPTH * PANEL * 2 / 64;  // cache lines of a panel that a step of k reads

// sums[r][o] of rows `first` to `first + count` (at most 32) of x, which is laid out for `rows` rows. Touches `ahead` and what
// follows, `lines` cache lines for each step of k.
template <bool TWO>
void product_tiles(const Stored* panel, int depth, const Active* x, int rows, int first, int count, float* out,
                   Tiling& tiling, const char* ahead, int lines) {
    constexpr int VECTORS = TWO ? 2 : 4;  // of sixteen outputs at a time
    constexpr size_t SUM_STRIDE = PANEL * sizeof(float);
    for (int vector = 0; vector < PANEL_VECTORS; vector += VECTORS) {
        zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
        for (int k = 0; k < depth; k += TILE_DEPTH) {
            const Stored* w = panel + static_cast<size_t>(k) * PANEL + vector * LANES * PAIR;
            const Active* a = x + active_index(rows, first, k);
            const Stored* of[4] = {w, w + LANES * PAIR, w + 2 * LANES * PAIR, w + 3 * LANES * PAIR};
            const Active* row[2] = {a, a + static_cast<size_t>(TILE) * K_BLOCK};
            size_t stride = PANEL * PAIR * sizeof(Stored), row_stride = K_BLOCK * sizeof(Active);
            if (const int units = (depth - k) / PAIR; units < TILE_PAIRS) {
                for (int j = 0; j < VECTORS; ++j) of[j] = tiling.filled_weights(of[j], PANEL * PAIR, units, j);
                row[0] = tiling.filled_rows(row[0], K_BLOCK, count < TILE ? count : TILE, units, 0);
                if constexpr (TWO) row[1] = tiling.filled_rows(row[1], K_BLOCK, count - TILE, units, 1);
                stride = row_stride = TILE_DEPTH * sizeof(Stored);
            }
            for (int line = 0; line < lines; ++line) __builtin_prefetch(ahead + line * 64, 0, TWO ? 2 : 3);
            ahead += lines * 64;
            load_tile<4>(row[0], row_stride);
            if constexpr (TWO) {
                load_tile<6>(of[0], stride);
                multiply_tiles<0, 4, 6>();
                load_tile<5>(row[1], row_stride);
                multiply_tiles<2, 5, 6>();
                load_tile<7>(of[1], stride);
                multiply_tiles<1, 4, 7>();
                multiply_tiles<3, 5, 7>();
            } else {
                load_tile<5>(of[0], stride);
                multiply_tiles<0, 4, 5>();
                load_tile<6>(of[1], stride);
                multiply_tiles<1, 4, 6>();
                load_tile<7>(of[2], stride);
                multiply_tiles<2, 4, 7>();
                load_tile<5>(of[3], stride);
                multiply_tiles<3, 4, 5>();
            }
        }
        float* to = out + first * PANEL + vector * LANES;
        store_tile<0>(to, SUM_STRIDE);
        store_tile<1>(to + LANES, SUM_STRIDE);
        if constexpr (TWO) {
            store_tile<2>(to + TILE * PANEL, SUM_STRIDE);
            store_tile<3>(to + TILE * PANEL + LANES, SUM_STRIDE);
        } else {
            store_tile<2>(to + 2 * LANES, SUM_STRIDE);
            store_tile<3>(to + 3 * LANES, SUM_STRIDE);
        }
    }
}

// See product.h. The chains of even and of odd k are eight at a time, enough to hide how long an addition takes.
template <int ROWS, int PANELS>
void product_few(const Stored* panels, ptrdiff_t apart, int depth, const Active* x, float* out) {
    constexpr int VECTORS = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
    Floats sums[PANELS][ROWS][PANEL_VECTORS] = {};
    for (int k = 0; k < depth; k += TILE_DEPTH) {
        const int units = (depth - k < TILE_DEPTH ? depth - k : TILE_DEPTH) / PAIR;
        const Active* row[ROWS];
        for (int r = 0; r < ROWS; ++r) row[r] = x + active_index(ROWS, r, k);
        for (int p = 0; p < PANELS; ++p) {
            const Stored* block = panels + p * apart + static_cast<size_t>(k) * PANEL;
            for (int first = 0; first < PANEL_VECTORS; first += VECTORS) {
                Floats even[ROWS][VECTORS] = {}, odd[ROWS][VECTORS] = {};
                for (int unit = 0; unit < units; ++unit) {
                    const Stored* w = block + (unit * PANEL + first * LANES) * PAIR;
                    Words pairs[VECTORS];
                    for (int j = 0; j < VECTORS; ++j) {
                        pairs[j] = load_words(w + j * LANES * PAIR);
                        __builtin_prefetch(reinterpret_cast<const char*>(w + j * LANES * PAIR) + STREAM_AHEAD, 0, 3);
                    }
                    for (int r = 0; r < ROWS; ++r) {
                        const Words both = Words{} + load_pair(row[r] + PAIR * unit);
                        for (int j = 0; j < VECTORS; ++j) {
                            even[r][j] = multiply_add(even_of(pairs[j]), even_of(both), even[r][j]);
                            odd[r][j] = multiply_add(odd_of(pairs[j]), odd_of(both), odd[r][j]);
                        }
                    }
                }
                for (int r = 0; r < ROWS; ++r)
                    for (int j = 0; j < VECTORS; ++j)
                        sums[p][r][first + j] = sums[p][r][first + j] + (even[r][j] + odd[r][j]);
            }
        }
    }
    for (int p = 0; p < PANELS; ++p)
        for (int r = 0; r < ROWS; ++r)
            for (int j = 0; j < PANEL_VECTORS; ++j) store(out + (p * ROWS + r) * PANEL + j * LANES, sums[p][r][j]);
}

constexpr int FEW_ROWS = 2;  // up to here lanes are as fast as reading the weights, tiles a quarter slower

template <typename Done>
void products(const Stored* panels, int count, int depth, const Active* x, int rows, float* out, Tiling& tiling,
              Done&& done) {
    if (rows <= FEW_ROWS) {
        with_rows(rows, [&]<int ROWS>() { products_few<ROWS>(panels, count, depth, x, out, done); });
        return;
    }
    const size_t size = static_cast<size_t>(depth) * PANEL;
    const int groups = (rows + 2 * TILE - 1) / (2 * TILE);
    const size_t bytes = size * sizeof(Stored);
    for (int i = 0; i < count; ++i) {
        const Stored* panel = panels + i * size;
        // With few rows the weights are read once, just before their use; with many the next panel comes bit by bit.
        const char* ahead = reinterpret_cast<const char*>(panel) + (rows <= TILE ? TILE_AHEAD : bytes);
        for (int group = 0; group < groups; ++group) {
            const int first = 2 * TILE * group, some = rows - first < 2 * TILE ? rows - first : 2 * TILE;
            tiling.begin(some);
            if (some <= TILE) {
                product_tiles<false>(panel, depth, x, rows, first, some, out, tiling, ahead, groups == 1 ? STEP_LINES : 0);
            } else {
                const int lines = (STEP_LINES / 2 + groups - 1) / groups;
                product_tiles<true>(panel, depth, x, rows, first, some, out, tiling, ahead, lines);
                ahead += static_cast<size_t>(lines) * 64 * 2 * ((depth + TILE_DEPTH - 1) / TILE_DEPTH);
            }
        }
        done(i, out);
    }
}

}  // namespace sartor
