// The inner loops of products for AVX2: a vector of sixteen lanes as two of eight, which fit its registers.
//
// GCC keeps its own vectors of sixteen in memory there and takes a sum out and back for every step. The order of additions
// and every rounding are those of product.h.
#pragma once

#include <immintrin.h>

namespace sartor {

struct Eights {
    __m256 low, high;
};

SARTOR_INLINE Eights load_eights(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

SARTOR_INLINE void store_eights(float* to, Eights value) {
    _mm256_storeu_ps(to, value.low);
    _mm256_storeu_ps(to + 8, value.high);
}

// The even or the odd one of each pair of bfloat16 numbers, widened.
SARTOR_INLINE Eights widened_eights(const Stored* pairs, bool odd) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs) + 1);
    if (odd) {
        const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
        return {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
    }
    return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}

SARTOR_INLINE Eights stored_eights(const Stored* from, int part) {
    if constexpr (PAIR == 1) {
        return load_eights(reinterpret_cast<const float*>(from));
    } else {
        return widened_eights(from, part == 1);
    }
}

// sums[r][j] += weights[j] * x[r] for one k.
template <int ROWS, int VECTORS>
SARTOR_INLINE void add_products(Eights (&sums)[ROWS][VECTORS], const Eights (&weights)[VECTORS], const float (&x)[ROWS]) {
    for (int r = 0; r < ROWS; ++r) {
        const __m256 value = _mm256_set1_ps(x[r]);
        for (int j = 0; j < VECTORS; ++j) {
            sums[r][j].low = _mm256_fmadd_ps(weights[j].low, value, sums[r][j].low);
            sums[r][j].high = _mm256_fmadd_ps(weights[j].high, value, sums[r][j].high);
        }
    }
}

template <int ROWS, int VECTORS>
SARTOR_INLINE void take(Eights (&to)[ROWS][VECTORS], const Floats (&from)[ROWS][VECTORS]) {
    for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < VECTORS; ++j) to[r][j] = load_eights(reinterpret_cast<const float*>(&from[r][j]));
}

template <int ROWS, int VECTORS>
SARTOR_INLINE void give(Floats (&to)[ROWS][VECTORS], const Eights (&from)[ROWS][VECTORS]) {
    for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < VECTORS; ++j) store_eights(reinterpret_cast<float*>(&to[r][j]), from[r][j]);
}

template <int ROWS, int VECTORS, int AHEAD = 0>
SARTOR_INLINE void multiply_stored(Floats (&totals)[ROWS][VECTORS], const Stored* const (&w)[VECTORS], ptrdiff_t stride,
                                   const Active* const (&x)[ROWS], int units) {
    Eights sums[ROWS][VECTORS];
    take(sums, totals);
    for (int unit = 0; unit < units; ++unit) {
        const ptrdiff_t at = unit * stride;
        if constexpr (AHEAD > 0)
            for (int j = 0; j < VECTORS; ++j) __builtin_prefetch(reinterpret_cast<const char*>(w[j] + at) + AHEAD, 0, 3);
        for (int part = 0; part < PAIR; ++part) {
            Eights weights[VECTORS];
            for (int j = 0; j < VECTORS; ++j) weights[j] = stored_eights(w[j] + at, part);
            float values[ROWS];
            for (int r = 0; r < ROWS; ++r) values[r] = x[r][PAIR * unit + part];
            add_products(sums, weights, values);
        }
    }
    give(totals, sums);
}

template <int ROWS, int VECTORS>
SARTOR_INLINE void multiply_prepared(Floats (&totals)[ROWS][VECTORS], const void* block, int first_vector,
                                     const Active* const (&x)[ROWS], int count, const char* ahead) {
    const float* base = static_cast<const float*>(block) + static_cast<size_t>(first_vector) * LANES;
    Eights sums[ROWS][VECTORS];
    take(sums, totals);
    for (int step = 0; step < count; ++step) {
        const float* at = base + static_cast<size_t>(step) * PANEL;
        __builtin_prefetch(ahead + static_cast<size_t>(step) * 64, 0, 2);
        Eights weights[VECTORS];
        for (int j = 0; j < VECTORS; ++j) weights[j] = load_eights(at + j * LANES);
        float values[ROWS];
        for (int r = 0; r < ROWS; ++r) values[r] = x[r][step];
        add_products(sums, weights, values);
    }
    give(totals, sums);
}

}  // namespace sartor
