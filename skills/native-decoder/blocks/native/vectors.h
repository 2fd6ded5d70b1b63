// Sixteen floats at a time, on any machine.
//
// Everything is written against GCC's and Clang's vector extension, which the compiler lowers to AVX-512, AVX2, NEON or
// SSE. Only the fused multiply-add needs help: the language has no operator for it, and leaving the choice to the compiler
// (-ffp-contract=fast) could fuse in one copy of a loop and not in another, so that a row would depend on its batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define SARTOR_INLINE inline __attribute__((always_inline))

namespace sartor {

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef float UnalignedFloats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t UnalignedWords __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t UnalignedHalves __attribute__((vector_size(32), aligned(2), may_alias));

SARTOR_INLINE Floats load(const float* from) { return *reinterpret_cast<const UnalignedFloats*>(from); }
SARTOR_INLINE Words load_words(const void* from) { return *reinterpret_cast<const UnalignedWords*>(from); }
SARTOR_INLINE void store(float* to, Floats value) { *reinterpret_cast<UnalignedFloats*>(to) = value; }

SARTOR_INLINE Floats broadcast(float x) { return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// a * b + c with one rounding where the machine has it, with two elsewhere; never a mixture.
SARTOR_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    Floats result;
    for (int i = 0; i < LANES; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return result;
#else
    return a * b + c;
#endif
}

SARTOR_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }

// Pairwise, in a fixed tree: the same sixteen numbers always give the same sum.
SARTOR_INLINE float sum_of(Floats value) {
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

SARTOR_INLINE float maximum_of(Floats value) {
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    return lanes[0];
}

// bfloat16 is the upper half of a float. A word of packed weights holds two of them: the even one below, the odd above.
SARTOR_INLINE Floats even_of(Words pairs) { return reinterpret_cast<Floats>(pairs << 16); }
SARTOR_INLINE Floats odd_of(Words pairs) { return reinterpret_cast<Floats>(pairs & 0xffff0000u); }

inline float from_bfloat16(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Round to nearest, ties to even. Infinities stay; a NaN stays a NaN because the upper half of any NaN that arithmetic
// produces has its quiet bit set, which the carry cannot clear.
inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

SARTOR_INLINE void store_bfloat16(uint16_t* to, Floats value) {
    const Words bits = reinterpret_cast<Words>(value);
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    *reinterpret_cast<UnalignedHalves*>(to) = __builtin_convertvector(rounded, Halves);
}

// e^x to about one unit in the last place; 0 below -87.3, where the result would be denormal. Range reduction by ln 2 in two
// parts and a polynomial of degree 6 (Cephes' expf has the same shape).
SARTOR_INLINE Floats exponential(Floats x) {
    const Floats clamped = maximum(x, broadcast(-87.33654f));
    const Floats bounded = clamped < broadcast(88.37626f) ? clamped : broadcast(88.37626f);
    const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
    const Floats shifted = multiply_add(bounded, broadcast(1.44269504f), magic);
    const Floats whole = shifted - magic;
    Floats r = multiply_add(whole, broadcast(-0.693145752f), bounded);
    r = multiply_add(whole, broadcast(-1.42860677e-6f), r);
    Floats p = broadcast(1.0f / 720.0f);
    p = multiply_add(p, r, broadcast(1.0f / 120.0f));
    p = multiply_add(p, r, broadcast(1.0f / 24.0f));
    p = multiply_add(p, r, broadcast(1.0f / 6.0f));
    p = multiply_add(p, r, broadcast(0.5f));
    p = multiply_add(p, r, broadcast(1.0f));
    p = multiply_add(p, r, broadcast(1.0f));
    const Words exponent = (reinterpret_cast<Words>(shifted) + 127u) << 23;
    const Floats result = p * reinterpret_cast<Floats>(exponent);
    return x < broadcast(-87.33654f) ? broadcast(0.0f) : result;
}

}  // namespace sartor
