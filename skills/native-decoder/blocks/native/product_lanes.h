// `products` in the lanes of vectors: see product.h for the order of additions.
#pragma once

#include "product.h"

namespace sartor {

constexpr int AHEAD_BYTES = 64 * 64;  // what one tile touches of the next block: a cache line for each of its 64 steps

// The same for panels that are `apart` elements from each other, one unit of each in turn.
template <int ROWS, int PANELS>
SARTOR_INLINE void multiply_side_by_side(Floats (&sums)[PANELS][ROWS][TILE_VECTORS], const Stored* panels, ptrdiff_t apart,
                                         const Active* const (&x)[ROWS], int units) {
    for (int unit = 0; unit < units; ++unit) {
        const Active* at[ROWS];
        for (int r = 0; r < ROWS; ++r) at[r] = x[r] + unit * PAIR;
        for (int p = 0; p < PANELS; ++p) {
            const Stored* w[TILE_VECTORS];
            for (int j = 0; j < TILE_VECTORS; ++j) w[j] = panels + p * apart + (unit * PANEL + j * LANES) * PAIR;
            multiply_stored<ROWS, TILE_VECTORS, STREAM_AHEAD>(sums[p], w, 0, at, 1);
        }
    }
}

// One block of a panel, ready to be used by many row tiles: widened to fp32 where weights are bf16 and activations are not.
// 16 KiB: half of a first-level cache.
struct alignas(64) PanelBlock {
    float widened[WIDENS ? K_BLOCK * PANEL : 1];

    void end() {}

    const void* prepare(const Stored* block, int units) {
        if constexpr (!WIDENS) {
            return block;
        } else {
            for (int unit = 0; unit < units; ++unit) {
                for (int j = 0; j < PANEL_VECTORS; ++j) {
                    const Words pairs = load_words(block + (unit * PANEL + j * LANES) * PAIR);
                    store(widened + (2 * unit) * PANEL + j * LANES, even_of(pairs));
                    store(widened + (2 * unit + 1) * PANEL + j * LANES, odd_of(pairs));
                }
            }
            return widened;
        }
    }
};

#if !SARTOR_EIGHTS
// As multiply_stored, over `count` k of a prepared block of a panel. Touches `ahead`, one cache line a step, so that the
// weights of the next block arrive meanwhile.
template <int ROWS, int VECTORS>
SARTOR_INLINE void multiply_prepared(Floats (&sums)[ROWS][VECTORS], const void* block, int first_vector,
                                     const Active* const (&x)[ROWS], int count, const char* ahead) {
    const char* base = static_cast<const char*>(block) + static_cast<size_t>(first_vector) * sizeof(Floats);
    const int steps = SARTOR_DOT_BF16 ? count / 2 : count;
    for (int step = 0; step < steps; ++step) {
        const char* at = base + static_cast<size_t>(step) * PANEL * sizeof(float);
        __builtin_prefetch(ahead + static_cast<size_t>(step) * 64, 0, 2);
#if SARTOR_DOT_BF16
        Words weights[VECTORS];
        for (int j = 0; j < VECTORS; ++j) weights[j] = load_words(at + j * sizeof(Words));
        for (int r = 0; r < ROWS; ++r) {
            const uint32_t pair = load_pair(x[r] + 2 * step);
            for (int j = 0; j < VECTORS; ++j) sums[r][j] = dot_pair(sums[r][j], weights[j], pair);
        }
#else
        Floats weights[VECTORS];
        for (int j = 0; j < VECTORS; ++j) weights[j] = load(reinterpret_cast<const float*>(at) + j * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const Floats value = broadcast(x[r][step]);
            for (int j = 0; j < VECTORS; ++j) sums[r][j] = multiply_add(weights[j], value, sums[r][j]);
        }
#endif
    }
}

#endif

using Scratch = PanelBlock;

template <int ROWS, int PANELS>
void product_few(const Stored* panels, ptrdiff_t apart, int depth, const Active* x, float* out) {
    for (int first = 0; first < PANEL_VECTORS; first += TILE_VECTORS) {
        Floats sums[PANELS][ROWS][TILE_VECTORS] = {};
        for (int k = 0; k < depth; k += K_BLOCK) {
            const int units = (depth - k < K_BLOCK ? depth - k : K_BLOCK) / PAIR;
            const Active* rows[ROWS];
            for (int r = 0; r < ROWS; ++r) rows[r] = x + active_index(ROWS, r, k);
            const Stored* block = panels + (static_cast<size_t>(k) * PANEL + first * LANES * PAIR);
#if SARTOR_EIGHTS
            static_assert(PANELS == 1);
            const Stored* w[TILE_VECTORS];
            for (int j = 0; j < TILE_VECTORS; ++j) w[j] = block + j * LANES * PAIR;
            multiply_stored<ROWS, TILE_VECTORS, STREAM_AHEAD>(sums[0], w, PANEL * PAIR, rows, units);
#else
            multiply_side_by_side<ROWS, PANELS>(sums, block, apart, rows, units);
#endif
        }
        for (int p = 0; p < PANELS; ++p)
            for (int r = 0; r < ROWS; ++r)
                for (int j = 0; j < TILE_VECTORS; ++j)
                    store(out + (p * ROWS + r) * PANEL + (first + j) * LANES, sums[p][r][j]);
    }
}

template <int ROWS>
void product_tile(const void* block, int count, bool begin, const Active* x, float* out, const char* ahead) {
    for (int first = 0; first < PANEL_VECTORS; first += TILE_VECTORS) {
        Floats sums[ROWS][TILE_VECTORS] = {};
        const Active* rows[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            rows[r] = x + r * K_BLOCK;
            if (!begin)
                for (int j = 0; j < TILE_VECTORS; ++j) sums[r][j] = load(out + r * PANEL + (first + j) * LANES);
        }
        multiply_prepared<ROWS, TILE_VECTORS>(sums, block, first, rows, count, ahead);
        for (int r = 0; r < ROWS; ++r)
            for (int j = 0; j < TILE_VECTORS; ++j) store(out + r * PANEL + (first + j) * LANES, sums[r][j]);
    }
}

// Many rows: a block of the panel goes through all row tiles while it is in the first-level cache; sums wait in `out` (fp32,
// so that stopping and going on does not round).
inline void product_many(const Stored* panel, int depth, const Active* x, int rows, float* out, PanelBlock& scratch) {
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int k = 0; k < depth; k += K_BLOCK) {
        const int count = depth - k < K_BLOCK ? depth - k : K_BLOCK;
        const Stored* stored = panel + static_cast<size_t>(k) * PANEL;
        const void* block = scratch.prepare(stored, count / PAIR);
        const char* next = reinterpret_cast<const char*>(stored + static_cast<size_t>(count) * PANEL);
        const char* beyond = next + static_cast<size_t>(count) * PANEL * sizeof(Stored);
        for (int tile = 0; tile < tiles; ++tile) {
            const int first = static_cast<int>(static_cast<int64_t>(rows) * tile / tiles);
            const int last = static_cast<int>(static_cast<int64_t>(rows) * (tile + 1) / tiles);
            const char* ahead = next < beyond ? next : reinterpret_cast<const char*>(stored);
            with_rows(last - first, [&]<int ROWS>() {
                product_tile<ROWS>(block, count, k == 0, x + active_index(rows, first, k), out + first * PANEL, ahead);
            });
            next += AHEAD_BYTES;
        }
    }
}

template <typename Done>
void products(const Stored* panels, int count, int depth, const Active* x, int rows, float* out, PanelBlock& scratch,
              Done&& done) {
    if (rows <= TILE_ROWS) {
        with_rows(rows, [&]<int ROWS>() { products_few<ROWS>(panels, count, depth, x, out, done); });
        return;
    }
    for (int i = 0; i < count; ++i) {
        product_many(panels + static_cast<size_t>(i) * depth * PANEL, depth, x, rows, out, scratch);
        done(i, out);
    }
}

}  // namespace sartor
