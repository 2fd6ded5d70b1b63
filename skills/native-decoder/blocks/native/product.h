// Matrix products in one accumulation order.
//
// Output o of row r is always fma(w[o][k], x[r][k], sum) for k = 0, 1, 2 …, in one chain (with bfloat16 dot products: pairs
// of k, with tiles: 32 of them, as the instruction does). Sixteen outputs sit in the lanes of a vector, so neither the number
// of rows, nor the tiling, nor the number of threads changes the order, and a row's result is the same bits in every step.
//
// Four arithmetics, chosen by macros:
//   bf16 weights, bf16 activations   the machine's tiles (tiles.h; or their emulation, -DSARTOR_EMULATE_TILES)
//   bf16 weights, bf16 activations   the machine's dot product (or its emulation, -DSARTOR_EMULATE_DPBF16)
//   bf16 weights, fp32 activations   weights are widened by a shift and a mask
//   fp32 weights, fp32 activations
// They differ in how numbers are stored and in one step of one chain; all that follows is shared.
#pragma once

#include "shapes.h"
#include "tiles.h"
#include "vectors.h"

namespace sartor {

#if !SARTOR_FLOAT32_WEIGHTS && (defined(__AVX512BF16__) || defined(SARTOR_EMULATE_DPBF16))
#define SARTOR_DOT_BF16 1
#else
#define SARTOR_DOT_BF16 0
#endif
#if SARTOR_DOT_BF16 && !defined(SARTOR_WITHOUT_TILES) && (defined(__AMX_BF16__) || defined(SARTOR_EMULATE_TILES))
#define SARTOR_TILES 1
#else
#define SARTOR_TILES 0
#endif

// Where the registers are AVX2's; left out by -DSARTOR_WITHOUT_EIGHTS, for tests.
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__) && !SARTOR_DOT_BF16 && !defined(SARTOR_WITHOUT_EIGHTS)
#define SARTOR_EIGHTS 1
#else
#define SARTOR_EIGHTS 0
#endif

// Stored: an element of packed weights, of K and of V. Active: an element of an activation.
// PAIR consecutive k lie side by side for each output; a "unit" is one such group, 4 bytes.
#if SARTOR_FLOAT32_WEIGHTS
using Stored = float;
constexpr int PAIR = 1;
#else
using Stored = uint16_t;
constexpr int PAIR = 2;
#endif
#if SARTOR_DOT_BF16
using Active = uint16_t;
#else
using Active = float;
#endif

constexpr bool WIDENS = PAIR == 2 && !SARTOR_DOT_BF16;

// Activations are kept as [k block][row][K_BLOCK]: a block of all rows is contiguous (256 bytes a row).
constexpr int K_BLOCK = SARTOR_DOT_BF16 ? 128 : 64;

constexpr int PANEL = 64;  // outputs of a panel
constexpr int PANEL_VECTORS = PANEL / LANES;

// Rows × vectors of one register tile: 24 of 32 registers for sums on AVX-512; elsewhere a vector takes 2 to 4 of 16 or 32.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6;
constexpr int TILE_VECTORS = 4;
constexpr int panels_side_by_side(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
#elif defined(__ARM_NEON)
constexpr int TILE_ROWS = 3;
constexpr int TILE_VECTORS = 2;
constexpr int panels_side_by_side(int) { return 1; }
#else
constexpr int TILE_ROWS = 3;
constexpr int TILE_VECTORS = 2;
constexpr int panels_side_by_side(int) { return 1; }
#endif
constexpr int MOST_ROWS_OF_SUMS = 8;  // of panels side by side: rows times panels
constexpr int STREAM_AHEAD = 2048;  // bytes

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

inline Stored to_stored(float value) {
    if constexpr (PAIR == 1) {
        return static_cast<Stored>(value);
    } else {
        return static_cast<Stored>(to_bfloat16(value));
    }
}

SARTOR_INLINE void store_active(Active* to, Floats value) {
#if SARTOR_DOT_BF16
    store_bfloat16(to, value);
#else
    store(to, value);
#endif
}

inline Active to_active(float value) {
#if SARTOR_DOT_BF16
    return to_bfloat16(value);
#else
    return value;
#endif
}

// Where element `column` of `row` lies among activations of `rows` rows.
SARTOR_INLINE size_t active_index(int rows, int row, int column) {
    return (static_cast<size_t>(column / K_BLOCK) * rows + row) * K_BLOCK + column % K_BLOCK;
}

#if SARTOR_DOT_BF16
// sum + w[odd] * x[odd] + w[even] * x[even], in this order, as VDPBF16PS is specified. A product of two bfloat16 is exact in
// fp32, so the emulation rounds where the instruction does (it differs for denormals, which the instruction flushes).
SARTOR_INLINE Floats dot_pair(Floats sum, Words weights, uint32_t pair) {
#if defined(__AVX512BF16__) && !defined(SARTOR_EMULATE_DPBF16)
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights),
                            reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(pair))));
#else
    sum = multiply_add(odd_of(weights), broadcast(from_bfloat16(static_cast<uint16_t>(pair >> 16))), sum);
    return multiply_add(even_of(weights), broadcast(from_bfloat16(static_cast<uint16_t>(pair))), sum);
#endif
}

SARTOR_INLINE uint32_t load_pair(const Active* from) {
    uint32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    return pair;
}
#endif

#if SARTOR_EIGHTS
}  // namespace sartor
#include "product_eights.h"
namespace sartor {
#else
// sums[r][j] += w[j] · x[r] over `units` units of stored weights; consecutive units of w[j] are `stride` elements apart.
// Touches what lies AHEAD bytes further on, for weights that come from memory.
template <int ROWS, int VECTORS, int AHEAD = 0>
SARTOR_INLINE void multiply_stored(Floats (&sums)[ROWS][VECTORS], const Stored* const (&w)[VECTORS], ptrdiff_t stride,
                                   const Active* const (&x)[ROWS], int units) {
    for (int unit = 0; unit < units; ++unit) {
        const ptrdiff_t at = unit * stride;
        if constexpr (AHEAD > 0)
            for (int j = 0; j < VECTORS; ++j) __builtin_prefetch(reinterpret_cast<const char*>(w[j] + at) + AHEAD, 0, 3);
#if SARTOR_DOT_BF16
        Words weights[VECTORS];
        for (int j = 0; j < VECTORS; ++j) weights[j] = load_words(w[j] + at);
        for (int r = 0; r < ROWS; ++r) {
            const uint32_t pair = load_pair(x[r] + 2 * unit);
            for (int j = 0; j < VECTORS; ++j) sums[r][j] = dot_pair(sums[r][j], weights[j], pair);
        }
#else
        for (int part = 0; part < PAIR; ++part) {
            Floats weights[VECTORS];
            for (int j = 0; j < VECTORS; ++j) {
#if SARTOR_FLOAT32_WEIGHTS
                weights[j] = load(w[j] + at);
#else
                weights[j] = part == 0 ? even_of(load_words(w[j] + at)) : odd_of(load_words(w[j] + at));
#endif
            }
            for (int r = 0; r < ROWS; ++r) {
                const Floats value = broadcast(x[r][PAIR * unit + part]);
                for (int j = 0; j < VECTORS; ++j) sums[r][j] = multiply_add(weights[j], value, sums[r][j]);
            }
        }
#endif
    }
}

#endif

// Calls function.template operator()<ROWS>() for a number of rows known only at run time.
template <int ROWS = TILE_ROWS, typename Function>
SARTOR_INLINE void with_rows(int rows, Function&& function) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) {
            function.template operator()<ROWS>();
        } else {
            with_rows<ROWS - 1>(rows, function);
        }
    }
}

// Few rows: the sums stay in registers over the whole of k. With one to three rows there are registers for several panels
// side by side, and that many streams of weights: one stream alone leaves a tenth or more of the bandwidth unused, because
// the processor prefetches no further than its page. `out` is [PANELS][rows][PANEL]; panels are `apart` elements from each
// other.
template <int ROWS, int PANELS>
void product_few(const Stored* panels, ptrdiff_t apart, int depth, const Active* x, float* out);

// `products` for few rows.
template <int ROWS, typename Done>
void products_few(const Stored* panels, int count, int depth, const Active* x, float* out, Done&& done) {
    constexpr int SIDE = panels_side_by_side(ROWS);
    static_assert(SIDE == 1 || SIDE * ROWS <= MOST_ROWS_OF_SUMS);
    const size_t size = static_cast<size_t>(depth) * PANEL;
    const int each = count / SIDE;  // each stream goes straight on from one of its panels to the next
    for (int i = 0; i < each; ++i) {
        product_few<ROWS, SIDE>(panels + i * size, static_cast<ptrdiff_t>(each * size), depth, x, out);
        for (int side = 0; side < SIDE; ++side) done(side * each + i, out + side * ROWS * PANEL);
    }
    for (int i = SIDE * each; i < count; ++i) {
        product_few<ROWS, 1>(panels + i * size, 0, depth, x, out);
        done(i, out);
    }
}

// `products`, and the `Scratch` that each thread has for it:
//
// The products of `count` panels that lie behind each other: done(panel, sums) is called for each, sums[r][o] being the sum
// over k of panel[o][k] * x[r][k]. `depth` is a multiple of PAIR, x is laid out for `rows` rows, and `out` has room for
// max(rows, MOST_ROWS_OF_SUMS) rows.

}  // namespace sartor

#if SARTOR_TILES
#include "product_tiles.h"
#else
#include "product_lanes.h"
#endif
