// Matrix products in the processor's tiles (AMX), or in plain loops that round like them (-DSARTOR_EMULATE_TILES).
//
// A tile of sums has up to 16 rows and 16 outputs. One instruction adds the products of 32 k: for each row and output the
// even and the odd k are two chains of fused multiply-adds, each beginning at zero, and their sum is added (Intel,
// *Architecture Instruction Set Extensions Programming Reference*, TDPBF16PS; denormals count as zero). Rows never meet, so
// here as well neither the number of rows nor the tiling nor the number of threads changes a row's bits. Steps of every size
// go this way: a single row is bound by reading the weights, however they are multiplied.
//
// Packed weights are what a tile wants already (pairs of k, an output beside the next), and so are activations.
#pragma once

#include "shapes.h"
#include "vectors.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sartor {

constexpr int TILE = 16;        // rows of a tile of sums, and its outputs
constexpr int TILE_DEPTH = 32;  // k of one instruction
constexpr int TILE_PAIRS = TILE_DEPTH / 2;

#if defined(SARTOR_EMULATE_TILES)

inline bool may_use_tiles() { return true; }

struct EmulatedTile {
    int rows;
    alignas(64) unsigned char bytes[TILE][64];
};
inline EmulatedTile& emulated_tile(int tile) {
    static thread_local EmulatedTile tiles[8];
    return tiles[tile];
}

inline void configure_tiles(const uint8_t (&rows)[8]) {
    for (int tile = 0; tile < 8; ++tile) {
        emulated_tile(tile).rows = rows[tile];
        std::memset(emulated_tile(tile).bytes, 0, sizeof emulated_tile(tile).bytes);
    }
}
inline void release_tiles() {}

template <int T>
void zero_tile() {
    std::memset(emulated_tile(T).bytes, 0, sizeof emulated_tile(T).bytes);
}
template <int T>
void load_tile(const void* from, size_t stride) {
    for (int row = 0; row < emulated_tile(T).rows; ++row)
        std::memcpy(emulated_tile(T).bytes[row], static_cast<const char*>(from) + row * stride, 64);
}
template <int T>
void store_tile(void* to, size_t stride) {
    for (int row = 0; row < emulated_tile(T).rows; ++row)
        std::memcpy(static_cast<char*>(to) + row * stride, emulated_tile(T).bytes[row], 64);
}
template <int SUMS, int ROWS, int WEIGHTS>
void multiply_tiles() {
    for (int row = 0; row < emulated_tile(SUMS).rows; ++row) {
        const uint16_t* x = reinterpret_cast<const uint16_t*>(emulated_tile(ROWS).bytes[row]);
        Floats even = {}, odd = {};
        for (int pair = 0; pair < TILE_PAIRS; ++pair) {
            const Words weights = load_words(emulated_tile(WEIGHTS).bytes[pair]);
            even = multiply_add(even_of(weights), broadcast(from_bfloat16(x[2 * pair])), even);
            odd = multiply_add(odd_of(weights), broadcast(from_bfloat16(x[2 * pair + 1])), odd);
        }
        float* sums = reinterpret_cast<float*>(emulated_tile(SUMS).bytes[row]);
        store(sums, load(sums) + (even + odd));
    }
}

#else

// Linux gives a process the tiles' registers when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
inline bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}

inline void configure_tiles(const uint8_t (&rows)[8]) {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes_a_row[16] = {};
        uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
        configuration.rows[tile] = rows[tile];
        configuration.bytes_a_row[tile] = rows[tile] > 0 ? 64 : 0;
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
}
inline void release_tiles() { asm volatile("tilerelease"); }

template <int T>
SARTOR_INLINE void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
SARTOR_INLINE void load_tile(const void* from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
SARTOR_INLINE void store_tile(void* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}
template <int SUMS, int ROWS, int WEIGHTS>
SARTOR_INLINE void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ROWS), "i"(WEIGHTS));
}

#endif

// While one lives, this thread's vectors count denormals as zero, as tiles always do: lanes and tiles then give the same bits.
class DenormalsAreZero {
#if defined(__x86_64__)
   public:
    DenormalsAreZero() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040u); }
    ~DenormalsAreZero() { __builtin_ia32_ldmxcsr(before_); }
    DenormalsAreZero(const DenormalsAreZero&) = delete;
    DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

   private:
    const unsigned before_;
#endif
};

// A thread's tiles: 0 to 3 are sums, 4 and 5 rows of activations, 6 and 7 weights (with 16 rows or fewer, 5 as well).
class alignas(64) Tiling {
   public:
    // For `rows` rows, at most 32, until the next call or `end`. Configuring empties the tiles.
    void begin(int rows) {
        if (rows == rows_) return;
        const uint8_t first = static_cast<uint8_t>(rows < TILE ? rows : TILE), second = static_cast<uint8_t>(rows - first);
        if (second == 0)
            configure_tiles({first, first, first, first, first, TILE, TILE, TILE});
        else
            configure_tiles({first, first, second, second, first, second, TILE, TILE});
        rows_ = rows;
    }

    // The registers are not saved any more when the system switches to another thread.
    void end() {
        if (rows_ != 0) release_tiles();
        rows_ = 0;
    }

    // The last units of a panel or of some rows, filled up with zeros to a whole tile: they change no sum.
    const uint16_t* filled_weights(const uint16_t* from, size_t unit_elements, int units, int slot) {
        return filled(weights_[slot], from, unit_elements, units, TILE_DEPTH);
    }
    const uint16_t* filled_rows(const uint16_t* from, size_t row_elements, int rows, int units, int slot) {
        return filled(active_[slot], from, row_elements, rows, 2 * units);
    }

   private:
    static const uint16_t* filled(uint16_t* to, const uint16_t* from, size_t stride, int lines, int elements) {
        std::memset(to, 0, sizeof(uint16_t) * TILE * TILE_DEPTH);
        for (int line = 0; line < lines; ++line)
            std::memcpy(to + line * TILE_DEPTH, from + line * stride, sizeof(uint16_t) * static_cast<size_t>(elements));
        return to;
    }

    alignas(64) uint16_t weights_[4][TILE * TILE_DEPTH];
    alignas(64) uint16_t active_[2][TILE * TILE_DEPTH];
    int rows_;  // that the tiles are configured for; 0: not at all (memory begins as zeros)
};

}  // namespace sartor
